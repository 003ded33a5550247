// Compares an instruction set's kernels with the portable ones, for processors that the tests only emulate:
// KERNELS names the set. Prints what differs; exits with how many checks failed.
#include <cmath>
#include <cstdio>
#include <utility>
#include <vector>

#include "kernels.h"

using namespace modelworks;

namespace {

uint32_t state = 1;
uint32_t draw() { return state = state * 1664525u + 1013904223u; }
float uniform() { return float(draw() >> 8) / float(1 << 23) - 1.0f; }
std::vector<float> floats(int n) {
    std::vector<float> v(n);
    for (float& x : v) x = uniform();
    return v;
}

int failures = 0;
void compare(const char* what, const std::vector<float>& found, const std::vector<float>& wanted, float tolerance) {
    float most = 0.0f, worst = 0.0f;
    for (size_t i = 0; i < wanted.size(); i++) {
        most = std::fmax(most, std::fabs(wanted[i]));
        worst = std::fmax(worst, std::fabs(found[i] - wanted[i]));
        if (!std::isfinite(found[i])) worst = INFINITY;
    }
    if (worst <= tolerance * most) return;
    failures++;
    std::printf("%s: differs by %g of %g\n", what, worst, most);
}

struct Memory {
    std::vector<int8_t> q;
    std::vector<float> scale;
    std::vector<int32_t> start, start8;
    explicit Memory(int groups) : q(groups * kGroup), scale(groups), start(groups), start8(2 * groups) {}
    Rounded view() { return {q.data(), scale.data(), start.data(), start8.data()}; }
    bool operator==(const Memory& other) const { return q == other.q && scale == other.scale; }
};

struct Rows {
    int groups;
    Memory rounded, rest;
    std::vector<float> sum;
    Rows(const Kernels& kernels, const std::vector<float>& x, int rows, int cols)
        : groups((cols + kGroup - 1) / kGroup), rounded(size(rows)), rest(size(rows)), sum(size(rows)) {
        for (int m = 0; m < rows; m++) kernels.quantize(x.data() + m * cols, cols, view(true), m);
    }
    int size(int rows) const { return (rows + kStack - 1) / kStack * kStack * groups; }  // whole stacks
    Activations view(bool fine) { return {rounded.view(), fine ? rest.view() : Rounded{}, sum.data(), groups}; }
};

void linear(int bits, bool min, bool halves, int rows, int cols, int count) {
    Matrix matrix{nullptr, rows, cols, bits, min, halves};
    std::vector<uint8_t> data(size_t(matrix.tiles()) * matrix.groups() * matrix.group_bytes());
    for (uint8_t& byte : data) byte = uint8_t(draw() >> 24);
    const int header = kTile * 2 * (min || halves ? 2 : 1);
    for (size_t at = 0; at < data.size(); at += matrix.group_bytes()) {
        const std::vector<float> scales = floats(header / 2);
        kPortable.to_half(scales.data(), header / 2, reinterpret_cast<uint16_t*>(data.data() + at));
    }
    matrix.data = data.data();
    std::vector<float> x = floats(count * cols);
    for (int m = 0; m < count; m += 2) x[m * cols + 3] = 30.0f;  // dominates its group
    Rows mine(KERNELS, x, count, cols), theirs(kPortable, x, count, cols);
    if (!(mine.rounded == theirs.rounded) || !(mine.rest == theirs.rest) || mine.sum != theirs.sum) {
        failures++;
        std::printf("quantize %d x %d differs\n", count, cols);
    }
    for (const bool fine : {false, true}) {
        std::vector<float> bias = floats(rows), y = floats(count * rows), z = y;
        KERNELS.linear(matrix, 0, matrix.tiles(), mine.view(fine), count, {y.data(), rows, bias.data(), true});
        kPortable.linear(matrix, 0, matrix.tiles(), theirs.view(fine), count, {z.data(), rows, bias.data(), true});
        char what[80];
        std::snprintf(what, sizeof what, "linear %d bits min %d halves %d fine %d: %d x %d by %d", bits, min, halves, fine,
                      rows, cols, count);
        compare(what, y, z, 1e-5f);
    }
}

void attend(int width, int rows, int window) {
    std::vector<uint16_t> keys(width * kBlock), values(width * kBlock);
    const std::vector<float> k = floats(width * kBlock), v = floats(width * kBlock), q = floats(rows * width);
    kPortable.to_half(k.data(), int(k.size()), keys.data());
    kPortable.to_half(v.data(), int(v.size()), values.data());
    std::vector<int> last(rows);
    for (int r = 0; r < rows; r++) last[r] = r % kBlock;
    std::vector<float> out[2], max[2], sum[2];
    for (int i = 0; i < 2; i++) {
        out[i].assign(rows * width, 0.0f);
        max[i].assign(rows, -INFINITY);
        sum[i].assign(rows, 0.0f);
        (i ? kPortable : KERNELS)
            .attend({keys.data(), values.data(), 0, nullptr, nullptr}, window, width,
                    {q.data(), last.data(), out[i].data(), max[i].data(), sum[i].data(), rows});
    }
    compare("attend", out[0], out[1], 1e-5f);
    compare("attend's maxima", max[0], max[1], 1e-5f);
    compare("attend's sums", sum[0], sum[1], 1e-5f);
}

void rows(int n) {
    const std::vector<float> x = floats(n), w = floats(n);
    std::vector<float> y(n), z(n);
    KERNELS.norm(x.data(), w.data(), n, 1e-5f, y.data());
    kPortable.norm(x.data(), w.data(), n, 1e-5f, z.data());
    compare("norm", y, z, 1e-5f);
    for (const Gate kind : {Gate::silu, Gate::gelu, Gate::gelu_tanh, Gate::relu}) {
        KERNELS.gate(kind, x.data(), w.data(), n, y.data());
        kPortable.gate(kind, x.data(), w.data(), n, z.data());
        compare("gate", y, z, 1e-5f);
    }
    std::vector<float> turned(2 * n), wanted(2 * n);
    const std::vector<float> pairs = floats(2 * n);
    KERNELS.rotate(pairs.data(), x.data(), w.data(), n, turned.data());
    kPortable.rotate(pairs.data(), x.data(), w.data(), n, wanted.data());
    compare("rotate", turned, wanted, 1e-6f);
    std::vector<uint16_t> half(n), half_wanted(n);
    KERNELS.to_half(x.data(), n, half.data());
    kPortable.to_half(x.data(), n, half_wanted.data());
    for (int i = 0; i < n; i++) {
        if (half[i] != half_wanted[i] || KERNELS.from_half(half[i]) != kPortable.from_half(half[i])) {
            failures++;
            std::printf("to_half: %g becomes %x, expected %x\n", x[i], half[i], half_wanted[i]);
        }
    }
}

}  // namespace

int main() {
    for (int count = 1; count <= 9; count++) {
        for (const auto [rows, cols] : {std::pair<int, int>{40, 96}, {16, 32}, {5, 70}}) {
            linear(4, false, false, rows, cols, count);
            linear(4, true, false, rows, cols, count);
            linear(8, false, false, rows, cols, count);
            linear(8, true, false, rows, cols, count);
            linear(8, false, true, rows, cols, count);
        }
    }
    for (const int window : {1 << 30, 7}) {
        for (const int width : {16, 48, 64}) attend(width, 10, window);
    }
    for (const int n : {1, 8, 19, 64}) rows(n);
    if (failures == 0) std::printf("equal\n");
    return failures;
}
