// What Python sees: modelworks.kernels._native. Shapes and names are those of kernels/program.py and linear.py.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "program.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace modelworks {
namespace {

template <class T, int N>
using Array = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

std::vector<std::string> isas() {  // best first
    std::vector<std::string> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
        if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512bw"))
            found.push_back(kAvx512Vnni.name);
        if (__builtin_cpu_supports("avxvnni")) found.push_back(kAvxVnni.name);
        found.push_back(kAvx2.name);
    }
#elif defined(__aarch64__) && defined(__linux__)
    if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) found.push_back(kNeon.name);
#elif defined(__aarch64__)
    found.push_back(kNeon.name);  // Apple's processors all have it
#endif
    found.push_back(kPortable.name);
    return found;
}

const Kernels& kernels_of(const std::string& isa) {
    for (const std::string& name : isas()) {
        if (name != isa) continue;
#if defined(__x86_64__)
        for (const Kernels* kernels : {&kAvx512Vnni, &kAvxVnni, &kAvx2})
            if (isa == kernels->name) return *kernels;
#elif defined(__aarch64__)
        if (isa == kNeon.name) return kNeon;
#endif
        return kPortable;
    }
    throw std::invalid_argument("this machine does not run kernels for " + isa);
}

int positive(int value, const char* name) {
    if (value < 1) throw std::invalid_argument(std::string(name) + " must be 1 or more, got " + std::to_string(value));
    return value;
}

Matrix matrix_of(const nb::handle& packed) {  // a kernels.linear.Packed
    const auto data = nb::cast<Array<const uint8_t, 1>>(packed.attr("data"));
    Matrix matrix{data.data(),
                  nb::cast<int>(packed.attr("rows")),
                  nb::cast<int>(packed.attr("cols")),
                  nb::cast<int>(packed.attr("bits")),
                  nb::cast<bool>(packed.attr("has_min")),
                  nb::cast<bool>(packed.attr("halves"))};
    positive(matrix.rows, "rows");
    positive(matrix.cols, "cols");
    const bool known = matrix.bits == 8 ? !(matrix.min && matrix.halves) : matrix.bits == 4 && !matrix.halves;
    if (!known) throw std::invalid_argument("there is no such packed layout");
    if (int64_t(data.size()) != int64_t(matrix.tiles()) * matrix.groups() * matrix.group_bytes())
        throw std::invalid_argument("packed data do not have the size that rows and cols ask for");
    return matrix;
}

std::vector<float> floats(const nb::object& array, int size) {  // None: empty
    if (array.is_none()) return {};
    const auto values = nb::cast<Array<const float, 1>>(array);
    if (int(values.size()) != size)
        throw std::invalid_argument("a vector has " + std::to_string(values.size()) + " elements, expected " +
                                    std::to_string(size));
    return {values.data(), values.data() + size};
}

// A Program and the arrays that its steps point into.
class Bound {
  public:
    Bound(std::vector<int> widths, int layers, int kv_heads, int head_dim, int num_blocks, int vocab, int threads,
          const std::string& isa)
        : widths_(widths),
          program_(kernels_of(isa), Pool::of(positive(threads, "threads")), widths,
                   CacheShape{layers, positive(kv_heads, "kv_heads"), positive(head_dim, "head_dim"),
                              positive(num_blocks, "num_blocks")},
                   positive(vocab, "vocab")) {}

    int rope(Array<const float, 1> frequencies, float factor) {
        if (int(frequencies.size()) * 2 != program_.cache.head_dim)
            throw std::invalid_argument("rotary frequencies must be half of head_dim");
        return ropes_ = program_.add_rope({{frequencies.data(), frequencies.data() + frequencies.size()}, factor});
    }

    void embed(int target, nb::object table, float scale) {
        auto step = std::make_unique<Embed>();
        step->target = target;
        step->table = matrix_of(table);
        step->scale = scale;
        expect(width(target) == step->table.cols && step->table.rows >= program_.vocab, "the embedding");
        keep(table, std::move(step));
    }

    void linear(int source, int target, nb::list parts, nb::object bias, bool add, bool fine, int before,
                nb::object weight, float eps, int gate) {
        auto step = std::make_unique<Linear>();
        step->index = int(linears_.size());
        step->source = source;
        step->target = target;
        int rows = 0;
        for (const nb::handle part : parts) {
            step->parts.push_back(matrix_of(part));
            expect(step->parts.back().cols == step->parts[0].cols, "the parts of a matrix");
            rows += step->parts.back().rows;
        }
        expect(!step->parts.empty(), "a matrix without parts");
        const int cols = step->parts[0].cols;
        step->bias = floats(bias, rows);
        step->add = add;
        step->fine = fine;
        step->before = Linear::Before(before);
        step->weight = floats(weight, cols);
        step->eps = eps;
        step->gate = Gate(gate);
        expect(width(source) == (step->before == Linear::Before::gate ? 2 : 1) * cols, "a matrix and its source");
        expect((step->before == Linear::Before::norm) == !step->weight.empty(), "a norm and its weight");
        expect(rows == (target == Linear::kLogits ? program_.vocab : width(target)), "a matrix and its target");
        linears_.push_back(step.get());
        keep(parts, std::move(step));
    }

    void attend(int source, int target, int layer, int heads, float scale, int window, int rope, nb::object q_norm,
                nb::object k_norm, float eps) {
        const CacheShape& cache = program_.cache;
        expect(layer >= 0 && layer < cache.layers, "a layer and the cache");
        expect(heads > 0 && heads % cache.kv_heads == 0, "query heads and key-value heads");
        expect(width(source) == (heads + 2 * cache.kv_heads) * cache.head_dim, "queries, keys and values");
        expect(width(target) == heads * cache.head_dim, "attention and its target");
        expect(rope >= 0 && rope <= ropes_, "attention and its rotary frequencies");
        auto step = std::make_unique<Attend>();
        step->source = source;
        step->target = target;
        step->layer = layer;
        step->heads = heads;
        step->scale = scale;
        step->window = positive(window, "window");
        step->rope = rope;
        step->eps = eps;
        step->q_norm = floats(q_norm, cache.head_dim);
        step->k_norm = floats(k_norm, cache.head_dim);
        program_.append(std::move(step));
    }

    void add_norm(int source, int target, nb::object weight, float eps) {
        expect(width(source) == width(target), "a norm and its target");
        auto step = std::make_unique<AddNorm>();
        step->source = source;
        step->target = target;
        step->weight = floats(weight, width(source));
        step->eps = eps;
        program_.append(std::move(step));
    }

    // Each of `pairs` is (linear, part, rank, a, b): the matrices of a LowRank, tiled as `Dense` is.
    int add_adapter(nb::list pairs) {
        auto adapter = std::make_unique<Adapter>(linears_.size());
        for (const nb::handle pair : pairs) {
            const auto [linear, part, rank, a, b] =
                nb::cast<std::tuple<int, int, int, Array<const float, 3>, Array<const float, 3>>>(pair, false);
            expect(linear >= 0 && linear < int(linears_.size()) && linears_[linear]->target != Linear::kLogits,
                   "an adapter and a step");
            const std::vector<Matrix>& parts = linears_[linear]->parts;
            expect(part >= 0 && part < int(parts.size()), "an adapter and a step's parts");
            const LowRank found{{a.data(), positive(rank, "rank"), parts[part].cols}, {b.data(), parts[part].rows, rank}};
            const auto fits = [](const Dense& matrix, const Array<const float, 3>& array) {
                return int(array.shape(0)) == matrix.tiles() && int(array.shape(1)) == matrix.cols &&
                       int(array.shape(2)) == kDense;
            };
            expect(fits(found.a, a) && fits(found.b, b), "an adapter and a matrix");
            auto& all = (*adapter)[linear];
            all.resize(parts.size());
            all[part] = found;
        }
        int number;
        {
            nb::gil_scoped_release release;
            number = program_.add_adapter(std::move(adapter));
        }
        adapters_[number] = std::move(pairs);
        return number;
    }

    void remove_adapter(int number) {
        {
            nb::gil_scoped_release release;
            program_.remove_adapter(number);
        }
        adapters_.erase(number);
    }

    void step(Array<const int32_t, 1> ids, Array<const int32_t, 1> starts, Array<const int32_t, 1> held,
              Array<const int32_t, 2> table, Array<const int32_t, 1> wanted, Array<float, 2> logits,
              nb::object adapters) {
        const int32_t* adapters_B = nullptr;
        if (!adapters.is_none()) {
            const auto numbers = nb::cast<Array<const int32_t, 1>>(adapters, false);
            if (numbers.size() != held.size()) throw std::invalid_argument("adapters must have one entry for each of held");
            adapters_B = numbers.data();
        }
        const Batch batch{int(ids.size()), int(held.size()), int(table.shape(1)), int(wanted.size()),
                          ids.data(),      starts.data(),    held.data(),         table.data(),
                          wanted.data(),   logits.data(),    adapters_B};
        if (starts.size() != held.size() + 1 || table.shape(0) != held.size())
            throw std::invalid_argument("starts must have one entry more than held, and table a row for each of held");
        if (logits.shape(0) != wanted.size() || int(logits.shape(1)) != program_.vocab)
            throw std::invalid_argument("logits must be (wanted, vocabulary)");
        nb::gil_scoped_release release;
        program_.step(batch);
    }

    void copy_block(int source, int target) {
        nb::gil_scoped_release release;
        program_.copy_block(source, target);
    }

    int64_t cache_bytes() const { return program_.cache_bytes(); }

  private:
    int width(int buffer) const {
        if (buffer < 0 || buffer >= int(widths_.size())) throw std::invalid_argument("there is no such buffer");
        return widths_[buffer];
    }
    void expect(bool holds, const char* what) const {
        if (!holds) throw std::invalid_argument(std::string(what) + " do not fit together");
    }
    void keep(nb::object owner, std::unique_ptr<Step> step) {
        owners_.push_back(std::move(owner));
        program_.append(std::move(step));
    }

    std::vector<int> widths_;
    int ropes_ = -1;  // the last one's index
    Program program_;
    std::vector<nb::object> owners_;
    std::vector<const Linear*> linears_;
    std::map<int, nb::object> adapters_;  // owners of the arrays
};

// y_MR = x_MK * matrix', the way the steps do it.
void linear(nb::object packed, Array<const float, 2> x, Array<float, 2> y, bool fine, int threads,
            const std::string& isa) {
    const Kernels& kernels = kernels_of(isa);
    const Matrix matrix = matrix_of(packed);
    const int count = int(x.shape(0));
    if (int(x.shape(1)) != matrix.cols || y.shape(0) != x.shape(0) || int(y.shape(1)) != matrix.rows)
        throw std::invalid_argument("x must be (M, cols) and y (M, rows)");
    RoundedRows rows;
    const Activations activations = rows.of(count, matrix.cols, fine);
    Pool& pool = Pool::of(positive(threads, "threads"));
    nb::gil_scoped_release release;
    std::lock_guard<std::mutex> guard(pool.busy);
    for (int m = 0; m < count; m++) kernels.quantize(x.data() + int64_t(m) * matrix.cols, matrix.cols, activations, m);
    multiply(kernels, pool, {matrix}, activations, count, {y.data(), matrix.rows, nullptr, false});
}

// Blocks, in rows or not, as weights: floats, or bfloat16 where `out` has two bytes an element.
void dequantize(int kind, Array<const uint8_t, 1> blocks, nb::ndarray<nb::c_contig, nb::device::cpu> out,
                Array<const float, 1> tables, Array<const float, 1> scales, float offset, int threads,
                const std::string& isa) {
    const Kernels& kernels = kernels_of(isa);
    if (kind < 0 || kind >= kBlockKinds) throw std::invalid_argument("there is no such kind of block");
    const auto known = BlockKind(kind);
    const int64_t count = int64_t(blocks.size()) / block_bytes(known);
    const bool brief = out.itemsize() == 2;
    if (int64_t(blocks.size()) != count * block_bytes(known) || int64_t(out.size()) != count * block_weights(known) ||
        (!brief && out.itemsize() != 4))
        throw std::invalid_argument("blocks and out must be of one number of weights, these of 2 or 4 bytes");
    if (tables.size() != 16 + 256) throw std::invalid_argument("tables must have 16 and 256 levels");
    if (known == BlockKind::nf4 && int64_t(scales.size()) != (count + kNf4Group - 1) / kNf4Group)
        throw std::invalid_argument("NF4 must have a second scale for each 256 blocks");
    const Blocks from{known, blocks.data(), tables.data(), tables.data() + 16, scales.data(), offset};
    constexpr int64_t kWeights = 1 << 16;  // of a chunk
    const int64_t step = kWeights / block_weights(known);
    Pool& pool = Pool::of(positive(threads, "threads"));
    nb::gil_scoped_release release;
    std::lock_guard<std::mutex> guard(pool.busy);
    pool.run(int((count + step - 1) / step), [&](int i) {
        kernels.dequantize(from, i * step, std::min(count, (i + 1) * step), out.data(), brief);
    });
}

}  // namespace
}  // namespace modelworks

NB_MODULE(_native, m) {
    using modelworks::Bound;
    m.attr("block_size") = modelworks::kBlock;
    m.def("isas", &modelworks::isas);
    m.def("linear", &modelworks::linear, "packed"_a, "x"_a, "y"_a, "fine"_a, "threads"_a, "isa"_a);
    m.def("dequantize", &modelworks::dequantize, "kind"_a, "blocks"_a, "out"_a, "tables"_a, "scales"_a, "offset"_a,
          "threads"_a, "isa"_a);
    nb::class_<Bound>(m, "Program")
        .def(nb::init<std::vector<int>, int, int, int, int, int, int, const std::string&>(), "widths"_a, "layers"_a,
             "kv_heads"_a, "head_dim"_a, "num_blocks"_a, "vocab"_a, "threads"_a, "isa"_a)
        .def("rope", &Bound::rope, "frequencies"_a, "factor"_a)
        .def("embed", &Bound::embed, "target"_a, "table"_a, "scale"_a)
        .def("linear", &Bound::linear, "source"_a, "target"_a, "parts"_a, "bias"_a.none(), "add"_a, "fine"_a,
             "before"_a, "weight"_a.none(), "eps"_a, "gate"_a)
        .def("attend", &Bound::attend, "source"_a, "target"_a, "layer"_a, "heads"_a, "scale"_a, "window"_a, "rope"_a,
             "q_norm"_a.none(), "k_norm"_a.none(), "eps"_a)
        .def("add_norm", &Bound::add_norm, "source"_a, "target"_a, "weight"_a, "eps"_a)
        .def("step", &Bound::step, "ids"_a, "starts"_a, "held"_a, "table"_a, "wanted"_a, "logits"_a,
             "adapters"_a.none())
        .def("add_adapter", &Bound::add_adapter, "pairs"_a)
        .def("remove_adapter", &Bound::remove_adapter, "number"_a)
        .def("copy_block", &Bound::copy_block, "source"_a, "target"_a)
        .def_prop_ro("cache_bytes", &Bound::cache_bytes);
}
