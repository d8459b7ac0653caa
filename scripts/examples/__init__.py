"""Examples of clients, each a file of its own that runs alone; tests run them all. See README.md."""
