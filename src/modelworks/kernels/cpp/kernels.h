// What one instruction set offers to the layer loop. Every set compiles kernels.inc with flags of its own.
#pragma once

#include <cstdint>

namespace modelworks {

constexpr int kTile = 16;   // rows that are interleaved, so that one vector holds the same columns of 8 of them
constexpr int kGroup = 32;  // columns that share a scale, in weights and activations
constexpr int kBlock = 32;  // tokens in a block of the key-value cache
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

// Rows of activations as int8: x = scale * q, padded with zeros to groups. For each group its scale, the sum of its x,
// and `start`: what integer sums start from so that 4-bit weights count from -8, as an instruction set likes it.
struct Activations {
    int8_t* q;
    float* scale;
    float* sum;
    int32_t* start;
    int groups;

    const int8_t* row(int m) const { return q + int64_t(m) * groups * kGroup; }
};

// Where a tile's results go: y[m * stride + row], with a bias added if there is one, on top of what is there if `add`.
struct Output {
    float* y;
    int64_t stride;
    const float* bias;
    bool add;
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
    // One block of keys, fp16 [width][kBlock], and values, fp16 [kBlock][width], that starts at `position`.
    // Rows see (last - window, last]; width is a multiple of 8.
    void (*attend)(const uint16_t* keys, const uint16_t* values, int position, int window, int width,
                   const QueryRows& rows);
    void (*to_half)(const float* x, int n, uint16_t* y);
    float (*from_half)(uint16_t x);
    // Tiles [first, last) of a matrix times `count` rows of x, each `matrix.cols` long.
    void (*dense)(const Dense& matrix, int first, int last, const float* x, int count, const Output& out);
};

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2, kAvxVnni, kAvx512Vnni;
#endif

}  // namespace modelworks
