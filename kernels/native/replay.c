/* Recorded calls of kernels, one after the other: what kernels/native/recorder.py keeps of a step.
 *
 * One type stands for all kernels: their arguments are pointers and 64-bit integers in order, and up to four floats. By
 * the calling conventions of x86-64 (System V) and AArch64 integers and floats go to registers of their own kinds, what
 * is left of the integers to the stack in order, and the caller cleans up: arguments beyond those that a kernel has are
 * not looked at. */
#include <stdint.h>

enum { NUM_INTS = 24, NUM_FLOATS = 4 };

typedef int64_t Int;
typedef void (*Kernel)(Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int, Int,
                       Int, Int, Int, Int, Int, float, float, float, float);
typedef struct {
    Kernel kernel;
    Int ints[NUM_INTS];
    float floats[NUM_FLOATS];
} Call;

void replay(const Call *calls, int64_t num_calls) {
    for (const Call *call = calls; call < calls + num_calls; call++) {
        const Int *i = call->ints;
        const float *f = call->floats;
        call->kernel(i[0], i[1], i[2], i[3], i[4], i[5], i[6], i[7], i[8], i[9], i[10], i[11], i[12], i[13], i[14],
                     i[15], i[16], i[17], i[18], i[19], i[20], i[21], i[22], i[23], f[0], f[1], f[2], f[3]);
    }
}
