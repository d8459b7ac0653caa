#include "lanes.h"

/* logits, out [R, V] fp32; bits [R, ceil(V / 32)], bit t % 32 of word t / 32 is token t */
void allow_bits(const float *logits, const uint32_t *bits, float *out, int64_t num_rows, int64_t num_tokens) {
    int64_t num_words = (num_tokens + 31) / 32;
    for (int64_t r = 0; r < num_rows; r++)
        for (int64_t w = 0; w < num_words; w++) {
            uint32_t word = bits[r * num_words + w];
            const float *from = logits + r * num_tokens + w * 32;
            float *to = out + r * num_tokens + w * 32;
            int64_t count = num_tokens - w * 32;
            if (count >= 32)
                for (int i = 0; i < 32; i++) to[i] = word >> i & 1 ? from[i] : -INFINITY;
            else
                for (int64_t i = 0; i < count; i++) to[i] = word >> i & 1 ? from[i] : -INFINITY;
        }
}
