// What one instruction set offers to the layer loop. Every set compiles kernels.inc with flags of its own.
#pragma once

#include <cstdint>

namespace modelworks {

constexpr int kTile = 16;   // rows that are interleaved, so that one vector holds the same columns of 8 of them
constexpr int kGroup = 32;  // columns that share a scale, in weights and activations
constexpr int kBlock = 32;  // tokens in a block of the key-value cache
constexpr int kStack = 8;   // rows of activations that lie together, group by group
constexpr int kDense = 8;   // rows of a float matrix that are interleaved

// How a packed matrix holds a group of one tile's rows:
//   16 fp16 scales, 16 fp16 minima (with `min`) or the second half's scales (with `halves`), then the weights:
//   4 bits: 4 x 2 x 32 bytes; byte (p, h, 4 r + j) has column 8 p + j of row 8 h + r in its low nibble, 8 p + 4 + j high
//   8 bits: 8 x 2 x 32 bytes; byte (s, h, 4 r + j) is column 4 s + j of row 8 h + r, signed
// A weight is scale * q + minimum; without minima, 4-bit weights are scale * (q - 8).
struct Matrix {
    const uint8_t* data;
    int rows, cols;
    int bits;      // 4 or 8
    bool min;      // a minimum for each group
    bool halves;   // a scale for each 16 columns (8 bits without minima only)

    int tiles() const { return (rows + kTile - 1) / kTile; }
    int groups() const { return (cols + kGroup - 1) / kGroup; }
    int group_bytes() const { return kTile * 2 * (min || halves ? 2 : 1) + kTile * kGroup * bits / 8; }
    const uint8_t* tile(int index) const { return data + int64_t(index) * groups() * group_bytes(); }
};

// A small matrix of floats: for each 8 rows, column after column, 8 values; rows padded with zeros.
struct Dense {
    const float* data;
    int rows, cols;

    int tiles() const { return (rows + kDense - 1) / kDense; }
};

// Rows of activations as int8: x = scale * q, padded with zeros to groups. For each group its scale and what integer
// sums start from: `start` so that 4-bit weights count from -8, as an instruction set likes it, and `start8`, for each
// half of the group, where 8-bit weights are taken as unsigned and so 128 too large.
struct Rounded {
    int8_t* q;
    float* scale;
    int32_t *start, *start8;
};

// Activations, and the sum of each group's x. Where `rest` is not null it holds what rounding took off the groups that
// one column dominates; their other columns would lose most of their digits. Its scale is 0 for the other groups.
struct Activations {
    Rounded rounded, rest;
    float* sum;
    int groups;

    // Where group g of row m is. A kernel that takes some rows of a stack together finds them at fixed distances.
    int64_t at(int m, int g) const { return (int64_t(m / kStack) * groups + g) * kStack + m % kStack; }
};

// Where a tile's results go: y[m * stride + row], with a bias added if there is one, on top of what is there if `add`.
struct Output {
    float* y;
    int64_t stride;
    const float* bias;
    bool add;
};

// A block of one key-value head: keys, fp16 [width][kBlock], and values, fp16 [kBlock][width], from `position` on; and
// the block that will be asked for next, or null.
struct CacheBlock {
    const uint16_t *keys, *values;
    int position;
    const uint16_t *next_keys, *next_values;
};

// Queries of one sequence that share a key-value head, with the state of the online softmax.
struct QueryRows {
    const float* q;     // rows x width, already scaled
    const int* last;    // the last position that a row sees
    float* out;         // rows x width, not yet divided by `sum`
    float* max;
    float* sum;
    int rows;
};

// Packed blocks as training reads them; see dequantize.inc.
enum class BlockKind { q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k, nf4 };
constexpr int kBlockKinds = 9;
constexpr int kNf4Group = 256;  // blocks of NF4 that share a second scale

constexpr int block_weights(BlockKind kind) {
    constexpr int weights[kBlockKinds] = {32, 32, 32, 32, 32, 256, 256, 256, 64};
    return weights[int(kind)];
}
constexpr int block_bytes(BlockKind kind) {
    constexpr int bytes[kBlockKinds] = {18, 20, 22, 24, 34, 144, 176, 210, 33};
    return bytes[int(kind)];
}

struct Blocks {
    BlockKind kind;
    const uint8_t* data;
    // NF4's: its 16 levels, the 256 levels of its scales, their scales, and what was taken off them.
    const float *levels, *dynamic, *scales;
    float offset;
};

enum class Gate { silu = 0, gelu = 1, gelu_tanh = 2, relu = 3 };

struct Kernels {
    const char* name;
    // x / rms(x) * weight
    void (*norm)(const float* x, const float* weight, int n, float eps, float* y);
    // act(gate) * up
    void (*gate)(Gate kind, const float* gate, const float* up, int n, float* y);
    void (*add)(const float* x, int n, float* y);
    // Row m of activations from n floats.
    void (*quantize)(const float* x, int n, const Activations& to, int m);
    // Tiles [first, last) of a matrix times rows [0, count) of activations.
    void (*linear)(const Matrix& matrix, int first, int last, const Activations& x, int count, const Output& out);
    // Turn pairs (i, i + D/2) of one head by cos and sin, D/2 each.
    void (*rotate)(const float* x, const float* cos, const float* sin, int half, float* y);
    // Rows see positions (last - window, last] of the block; width is a multiple of 16.
    void (*attend)(const CacheBlock& block, int window, int width, const QueryRows& rows);
    void (*to_half)(const float* x, int n, uint16_t* y);
    float (*from_half)(uint16_t x);
    // Tiles [first, last) of a matrix times `count` rows of x, each `matrix.cols` long.
    void (*dense)(const Dense& matrix, int first, int last, const float* x, int count, const Output& out);
    // Blocks [first, last) to their place in out: bfloat16 if `brief`, else float.
    void (*dequantize)(const Blocks& from, int64_t first, int64_t last, void* out, bool brief);
};

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2, kAvxVnni, kAvx512Vnni;
#elif defined(__aarch64__)
extern const Kernels kNeon;
#endif

}  // namespace modelworks
