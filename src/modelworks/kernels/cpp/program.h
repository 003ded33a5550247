// The layer loop: a model's forward as a flat list of steps over packed weights, and the key-value cache they use.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "kernels.h"
#include "pool.h"

namespace modelworks {

// The new tokens of a batch of sequences; the names are those of Program.step in program.py.
struct Batch {
    int tokens, sequences, blocks, wanted;
    const int32_t *ids_N, *starts_B1, *held_B, *table_BM, *wanted_R;
    float* logits_RV;
    const int32_t* adapters_B;  // null: none
};

// What is added to a part of a `Linear` for sequences with an adapter: y += b (a x) (Hu et al. 2021, arXiv:2106.09685,
// eq. 3), b holding the scale. Without an `a` there is nothing to add.
struct LowRank {
    Dense a{nullptr, 0, 0}, b{nullptr, 0, 0};
};

// By the index of a `Linear` and of its part; empty for a `Linear` that it leaves alone.
using Adapter = std::vector<std::vector<LowRank>>;

// A part's addition to rows [first, first + count): y += b t.
struct Addition {
    int part, first, count;
    const LowRank* pair;
    float* t;
};

// Rotary frequencies, radians a position for each pair, and the factor on cos and sin.
struct Rope {
    std::vector<float> frequency;
    float factor;
};

struct CacheShape {
    int layers, kv_heads, head_dim, num_blocks;
    int width() const { return (head_dim + 15) / 16 * 16; }  // of a head, padded to whole vectors
    int64_t half() const { return int64_t(kv_heads) * width() * kBlock; }  // fp16 values of a layer's keys or values
    int64_t block() const { return half() * 2 * layers; }
};

// Zeros that the system gives pages for when they are first used: large ones, where it has them.
class Memory {
  public:
    explicit Memory(int64_t bytes);  // throws std::bad_alloc
    ~Memory();
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    void* data() const { return data_; }

  private:
    void *mapped_, *data_;
    int64_t size_;
};

// Memory for rows of activations, which only grows.
class RoundedRows {
  public:
    Activations of(int rows, int cols, bool fine);

  private:
    struct Part {
        std::vector<int8_t> q;
        std::vector<float> scale;
        std::vector<int32_t> start, start8;
        Rounded of(int64_t groups);
    };
    Part rounded_, rest_;
    std::vector<float> sum_;
};

class Program;

struct Step {
    virtual ~Step() = default;
    virtual void run(Program& program, const Batch& batch) const = 0;
    // Whether it is about the batch, its tokens or its sequences, and not about each row by itself.
    virtual bool needs_all() const { return false; }
};

class Program {
  public:
    const Kernels& kernels;
    Pool& pool;
    const CacheShape cache;
    const int vocab;

    Program(const Kernels& kernels, Pool& pool, std::vector<int> widths, CacheShape cache, int vocab);

    void append(std::unique_ptr<Step> step) {
        steps_.push_back(std::move(step));
        if (steps_.back()->needs_all()) all_ = steps_.size();
    }
    int add_rope(Rope rope);
    // Throws std::invalid_argument for a batch that is none; the cache is then untouched.
    void step(const Batch& batch);
    void copy_block(int source, int target);
    // An adapter's number, for `Batch`. Neither happens while a step runs.
    int add_adapter(std::unique_ptr<Adapter> adapter);
    void remove_adapter(int number);
    int64_t cache_bytes() const { return cache.block() * 2 * cache.num_blocks; }

    // What steps work with.
    int width(int buffer) const { return widths_[buffer]; }
    float* row(int buffer, int n) { return buffers_[buffer].data() + int64_t(n) * widths_[buffer]; }
    uint16_t* keys(int block, int layer) { return cache_ + block * cache.block() + layer * 2 * cache.half(); }
    uint16_t* values(int block, int layer) { return keys(block, layer) + cache.half(); }
    const float* cos(int rope, int n) const { return angles_[rope].data() + int64_t(n) * 2 * half_width(rope); }
    const float* sin(int rope, int n) const { return cos(rope, n) + half_width(rope); }
    Activations quantized(int rows, int cols, bool fine);
    // Whether any row of the batch has an adapter that adds to that `Linear`.
    bool adapts(int linear) const;
    float* inputs(int rows, int cols);
    // The additions to a `Linear` of those inputs, their t = a x computed.
    const std::vector<Addition>& additions(int linear, const float* inputs, int cols);

    // Call body(n) for rows, in parallel where there is enough to do.
    template <class Body>
    void each_row(int rows, const Body& body) {
        constexpr int chunk = 8;
        if (rows < 2 * chunk) {
            for (int n = 0; n < rows; n++) body(n);
            return;
        }
        pool.run((rows + chunk - 1) / chunk, [&](int c) {
            for (int n = c * chunk; n < rows && n < (c + 1) * chunk; n++) body(n);
        });
    }

    // Of the batch at hand.
    std::vector<int> position, sequence;         // of each token
    std::vector<float> queries, gathered;            // attention's rows, and what spans give for them
    std::vector<int> last;

  private:
    struct Span {  // rows that follow each other and have the same adapter
        int first, count;
        const Adapter* adapter;
    };
    struct Piece {  // of computing t: one tile of a, some rows
        int addition, tile, first, count;
    };

    void check(const Batch& batch) const;
    void find_spans(const Batch& batch);
    // The batch without tokens that are not wanted, whose rows are moved together.
    Batch narrowed(const Batch& batch);
    int half_width(int rope) const { return int(ropes_[rope].frequency.size()); }

    std::vector<int> widths_;
    std::vector<std::unique_ptr<Step>> steps_;
    size_t all_ = 0;  // so many steps are for all tokens, those after them for the wanted ones
    std::vector<int32_t> narrow_starts_, narrow_wanted_;
    std::vector<Rope> ropes_;
    Memory memory_;
    uint16_t* const cache_;
    std::vector<std::vector<float>> buffers_, angles_;
    RoundedRows rounded_;
    std::map<int, std::unique_ptr<Adapter>> adapters_;
    int next_adapter_ = 0;
    std::vector<Span> spans_;
    std::vector<Addition> additions_;
    std::vector<Piece> pieces_;
    std::vector<float> inputs_, reduced_;
};

// target = the rows of `table` at the tokens' ids, times `scale`.
struct Embed : Step {
    int target;
    Matrix table;
    float scale;
    void run(Program& program, const Batch& batch) const override;
    bool needs_all() const override { return true; }
};

// target (+)= matrix * f(source) + bias, where f is nothing, an RMSNorm or a gate over the two halves of the source,
// and the matrix is its parts on top of each other. With target kLogits: the rows that are wanted, to the logits.
struct Linear : Step {
    static constexpr int kLogits = -1;
    enum class Before { nothing = 0, norm = 1, gate = 2 };

    int index;  // among the linear steps
    int source, target;
    std::vector<Matrix> parts;
    std::vector<float> bias;  // empty: none
    bool add, fine;  // fine: activations keep their rest
    Before before;
    std::vector<float> weight;
    float eps;
    Gate gate;
    void run(Program& program, const Batch& batch) const override;
};

// source is q, k and v of a token side by side, heads x head_dim each: norm the heads of q and k if weights are given,
// turn them, append k and v to the layer's cache, and attend to it.
//
// A row's keys are taken in spans that begin at multiples of kSpan, each with a softmax of its own, and the spans'
// results are joined in order (Dao et al. 2023, "Flash-Decoding"). Spans are computed one after the other where there
// are rows enough for all threads, and at the same time where there are not: to the same bits.
struct Attend : Step {
    static constexpr int kSpan = 4 * kBlock;

    int source, target, layer, heads, window, rope;
    float scale, eps;
    std::vector<float> q_norm, k_norm;  // empty: none
    void run(Program& program, const Batch& batch) const override;
    bool needs_all() const override { return true; }

  private:
    // Some tokens of one sequence, with the queries of one key-value head: those share the reading of its keys.
    struct Part {
        int first, count, kv_head;
    };
    // What rows have gathered of the values so far, not yet divided by `sum`.
    struct Gathered {
        float *out, *max, *sum;
    };
    void append(Program& program, const Batch& batch, int n) const;
    int first_span(const Program& program, const Part& part) const;
    int last_span(const Program& program, const Part& part) const;
    void attend(Program& program, const Batch& batch, const Part& part, int span, const Gathered& to) const;
    void finish(Program& program, const Part& part, const Gathered& from) const;
};

// target += norm(source)
struct AddNorm : Step {
    int source, target;
    std::vector<float> weight;
    float eps;
    void run(Program& program, const Batch& batch) const override;
};

// One row of a packed matrix as floats; `out` has the matrix's columns.
void unpack_row(const Kernels& kernels, const Matrix& matrix, int row, float* out);
// The product of a list of matrices, on top of each other, with rows of activations, in parallel; and what is added.
void multiply(const Kernels& kernels, Pool& pool, const std::vector<Matrix>& parts, const Activations& x, int rows,
              const Output& out, const std::vector<Addition>& additions = {});

}  // namespace modelworks
