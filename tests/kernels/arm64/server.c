/* Calls functions of a shared object for a process of another machine, which sends numbers and the memory that its
 * pointers point into, and gets that memory back. Runs under qemu-user; tests/kernels/arm64/emulator.py is the other end.
 *
 * All arguments are pointers, 64-bit integers and up to four floats: kernels/native/replay.c says why one type of
 * function stands for all. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { NUM_INTS = 24, NUM_FLOATS = 4, MOST_BUFFERS = 24, LINE = 64 };

typedef int64_t Int;
typedef Int (*Function)(Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int,
                        Int, Int, Int, Int, float, float, float, float);

typedef struct {
    char name[64];
    Int ints[NUM_INTS];      /* of a pointer: how far it is into its buffer */
    Int buffer_of[NUM_INTS]; /* -1: a number */
    float floats[NUM_FLOATS];
    Int num_buffers;
    Int num_bytes[MOST_BUFFERS];
    Int misaligned[MOST_BUFFERS]; /* address modulo a cache line, as in the other process */
} Call;

static void receive(void *memory, size_t num_bytes) {
    if (num_bytes && fread(memory, 1, num_bytes, stdin) != num_bytes) exit(0);
}

int main(int argc, char **argv) {
    void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW) : NULL;
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    for (;;) {
        Call call;
        receive(&call, sizeof(call));
        char *buffers[MOST_BUFFERS], *places[MOST_BUFFERS];
        for (Int b = 0; b < call.num_buffers; b++) {
            places[b] = aligned_alloc(LINE, (call.num_bytes[b] + 2 * LINE) / LINE * LINE);
            buffers[b] = places[b] + call.misaligned[b];
            receive(buffers[b], call.num_bytes[b]);
        }
        Int i[NUM_INTS];
        for (int n = 0; n < NUM_INTS; n++)
            i[n] = call.buffer_of[n] < 0 ? call.ints[n] : (Int)(buffers[call.buffer_of[n]] + call.ints[n]);
        Function function = (Function)dlsym(library, call.name);
        if (!function) {
            fprintf(stderr, "%s\n", dlerror());
            return 1;
        }
        const float *f = call.floats;
        Int result = function(i[0], i[1], i[2], i[3], i[4], i[5], i[6], i[7], i[8], i[9], i[10], i[11], i[12], i[13],
                              i[14], i[15], i[16], i[17], i[18], i[19], i[20], i[21], i[22], i[23], f[0], f[1], f[2], f[3]);
        fwrite(&result, sizeof(result), 1, stdout);
        for (Int b = 0; b < call.num_buffers; b++) {
            fwrite(buffers[b], 1, call.num_bytes[b], stdout);
            free(places[b]);
        }
        fflush(stdout);
    }
}
