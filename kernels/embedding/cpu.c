/* Rows of a table, by number. */
#include <stdint.h>
#include <string.h>

void embedding(const char *table, const int64_t *tokens, char *out, int64_t num_tokens, int64_t row_bytes) {
    for (int64_t t = 0; t < num_tokens; t++) memcpy(out + t * row_bytes, table + tokens[t] * row_bytes, row_bytes);
}
