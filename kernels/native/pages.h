/* Large pages for what every step reads. */
#pragma once

#include <stdint.h>
#include <sys/mman.h>

/* Asks for large pages for memory that nobody has written yet: a step reads all weights, and address translation of
 * small pages costs a good part of the bandwidth. Where there are none, nothing changes. */
void use_large_pages(void *memory, int64_t num_bytes) {
#ifdef MADV_HUGEPAGE
    uintptr_t page = 4096, start = ((uintptr_t)memory + page - 1) / page * page;
    uintptr_t stop = ((uintptr_t)memory + num_bytes) / page * page;
    if (stop > start) madvise((void *)start, stop - start, MADV_HUGEPAGE);
#endif
}
