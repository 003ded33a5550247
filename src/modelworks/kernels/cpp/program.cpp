#include "program.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>

namespace modelworks {

namespace {

// A thread's scratch row; grows to the widest asked for.
float* scratch(int width) {
    thread_local std::vector<float> row;
    if (int(row.size()) < width) row.resize(width);
    return row.data();
}

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

template <class T>
void at_least(std::vector<T>& buffer, int64_t size) {
    if (int64_t(buffer.size()) < size) buffer.resize(size);
}

}  // namespace

Memory::Memory(int64_t bytes) {
    constexpr int64_t large = 2 << 20;
    size_ = bytes + large;
    mapped_ = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped_ == MAP_FAILED) throw std::bad_alloc();
    data_ = reinterpret_cast<void*>((reinterpret_cast<intptr_t>(mapped_) + large - 1) / large * large);
#if defined(MADV_HUGEPAGE)
    // Blocks of a sequence lie far apart: with small pages, finding each page's place took longer than reading it.
    if (bytes >= 4 * large) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
}

Memory::~Memory() { munmap(mapped_, size_); }

Program::Program(const Kernels& kernels, Pool& pool, std::vector<int> widths, CacheShape cache, int vocab)
    : kernels(kernels),
      pool(pool),
      cache(cache),
      vocab(vocab),
      widths_(std::move(widths)),
      memory_(cache.block() * 2 * cache.num_blocks),
      cache_(static_cast<uint16_t*>(memory_.data())) {
    buffers_.resize(widths_.size());
}

int Program::add_rope(Rope rope) {
    ropes_.push_back(std::move(rope));
    angles_.emplace_back();
    return int(ropes_.size()) - 1;
}

Rounded RoundedRows::Part::of(int64_t groups) {
    at_least(q, groups * kGroup);
    at_least(scale, groups);
    at_least(start, groups);
    at_least(start8, groups * 2);
    return {q.data(), scale.data(), start.data(), start8.data()};
}

Activations RoundedRows::of(int rows, int cols, bool fine) {
    const int groups = (cols + kGroup - 1) / kGroup;
    const int64_t all = int64_t((rows + kStack - 1) / kStack) * kStack * groups;
    at_least(sum_, all);
    return {rounded_.of(all), fine ? rest_.of(all) : Rounded{}, sum_.data(), groups};
}

Activations Program::quantized(int rows, int cols, bool fine) { return rounded_.of(rows, cols, fine); }

void Program::check(const Batch& batch) const {
    if (batch.starts_B1[0] != 0 || batch.starts_B1[batch.sequences] != batch.tokens)
        refuse("starts must run from 0 to the number of tokens");
    for (int n = 0; n < batch.tokens; n++) {
        if (batch.ids_N[n] < 0 || batch.ids_N[n] >= vocab)
            refuse("token id " + std::to_string(batch.ids_N[n]) + " is not in the vocabulary of " +
                   std::to_string(vocab));
    }
    for (int b = 0; b < batch.sequences; b++) {
        const int64_t count = int64_t(batch.starts_B1[b + 1]) - batch.starts_B1[b], held = batch.held_B[b];
        if (count < 0) refuse("starts must not fall");
        if (held < 0) refuse("held must not be negative");
        const int64_t needed = count ? (held + count + kBlock - 1) / kBlock : 0;
        if (needed > batch.blocks)
            refuse("sequence " + std::to_string(b) + " needs " + std::to_string(needed) + " cache blocks, its table has " +
                   std::to_string(batch.blocks));
        for (int64_t i = 0; i < needed; i++) {
            const int block = batch.table_BM[int64_t(b) * batch.blocks + i];
            if (block < 0 || block >= cache.num_blocks)
                refuse("sequence " + std::to_string(b) + " names cache block " + std::to_string(block) + " of " +
                       std::to_string(cache.num_blocks));
        }
    }
    for (int b = 0; batch.adapters_B && b < batch.sequences; b++) {
        const int number = batch.adapters_B[b];
        if (number != -1 && !adapters_.count(number))
            refuse("sequence " + std::to_string(b) + " names adapter " + std::to_string(number) + ", which is not there");
    }
    for (int r = 0; r < batch.wanted; r++) {
        if (batch.wanted_R[r] < 0 || batch.wanted_R[r] >= batch.tokens) refuse("wanted must be indices of tokens");
    }
}

void Program::step(const Batch& batch) {
    std::lock_guard<std::mutex> guard(pool.busy);
    check(batch);
    const int N = batch.tokens;
    for (size_t i = 0; i < buffers_.size(); i++) at_least(buffers_[i], int64_t(N) * widths_[i]);
    at_least(position, N);
    at_least(sequence, N);
    for (int b = 0; b < batch.sequences; b++) {
        for (int n = batch.starts_B1[b]; n < batch.starts_B1[b + 1]; n++) {
            position[n] = batch.held_B[b] + n - batch.starts_B1[b];
            sequence[n] = b;
        }
    }
    for (size_t i = 0; i < ropes_.size(); i++) {
        const int half = half_width(int(i));
        at_least(angles_[i], int64_t(N) * 2 * half);
        each_row(N, [&](int n) {
            float* row = angles_[i].data() + int64_t(n) * 2 * half;
            for (int d = 0; d < half; d++) {
                const float angle = float(position[n]) * ropes_[i].frequency[d];
                row[d] = std::cos(angle) * ropes_[i].factor;
                row[half + d] = std::sin(angle) * ropes_[i].factor;
            }
        });
    }
    find_spans(batch);
    for (size_t i = 0; i < all_; i++) steps_[i]->run(*this, batch);
    const Batch left = narrowed(batch);
    find_spans(left);
    for (size_t i = all_; left.tokens > 0 && i < steps_.size(); i++) steps_[i]->run(*this, left);
}

Batch Program::narrowed(const Batch& batch) {
    const int32_t* wanted = batch.wanted_R;
    for (int r = 1; r < batch.wanted; r++) {
        if (wanted[r] <= wanted[r - 1]) return batch;
    }
    for (size_t i = 0; i < buffers_.size(); i++) {
        for (int r = 0; r < batch.wanted; r++) {
            if (wanted[r] != r) std::copy_n(row(int(i), wanted[r]), widths_[i], row(int(i), r));
        }
    }
    narrow_starts_.clear();
    for (int b = 0; b <= batch.sequences; b++)
        narrow_starts_.push_back(int32_t(std::lower_bound(wanted, wanted + batch.wanted, batch.starts_B1[b]) - wanted));
    narrow_wanted_.resize(batch.wanted);
    std::iota(narrow_wanted_.begin(), narrow_wanted_.end(), 0);
    Batch left = batch;
    left.tokens = batch.wanted;
    left.ids_N = nullptr;
    left.starts_B1 = narrow_starts_.data();
    left.wanted_R = narrow_wanted_.data();
    return left;
}

int Program::add_adapter(std::unique_ptr<Adapter> adapter) {
    std::lock_guard<std::mutex> guard(pool.busy);
    adapters_[next_adapter_] = std::move(adapter);
    return next_adapter_++;
}

void Program::remove_adapter(int number) {
    std::lock_guard<std::mutex> guard(pool.busy);
    if (!adapters_.erase(number)) refuse("there is no adapter " + std::to_string(number));
}

void Program::find_spans(const Batch& batch) {
    spans_.clear();
    for (int b = 0; batch.adapters_B && b < batch.sequences; b++) {
        const int first = batch.starts_B1[b], count = batch.starts_B1[b + 1] - first;
        if (batch.adapters_B[b] < 0 || count == 0) continue;
        const Adapter* adapter = adapters_.at(batch.adapters_B[b]).get();
        if (!spans_.empty() && spans_.back().adapter == adapter && spans_.back().first + spans_.back().count == first) {
            spans_.back().count += count;
        } else {
            spans_.push_back({first, count, adapter});
        }
    }
}

bool Program::adapts(int linear) const {
    return std::any_of(spans_.begin(), spans_.end(), [&](const Span& span) { return !(*span.adapter)[linear].empty(); });
}

float* Program::inputs(int rows, int cols) {
    at_least(inputs_, int64_t(rows) * cols);
    return inputs_.data();
}

const std::vector<Addition>& Program::additions(int linear, const float* inputs, int cols) {
    constexpr int most = 16;  // rows of a piece
    additions_.clear();
    pieces_.clear();
    int64_t size = 0, work = 0;
    for (const Span& span : spans_) {
        const std::vector<LowRank>& pairs = (*span.adapter)[linear];
        for (size_t part = 0; part < pairs.size(); part++) {
            if (!pairs[part].a.data) continue;
            for (int tile = 0; tile < pairs[part].a.tiles(); tile++) {
                for (int n = 0; n < span.count; n += most)
                    pieces_.push_back({int(additions_.size()), tile, n, std::min(most, span.count - n)});
            }
            additions_.push_back({int(part), span.first, span.count, &pairs[part], nullptr});
            size += int64_t(span.count) * pairs[part].a.rows;
            work += int64_t(span.count) * pairs[part].a.rows * cols;
        }
    }
    at_least(reduced_, size);
    float* t = reduced_.data();
    for (Addition& each : additions_) {
        each.t = t;
        t += int64_t(each.count) * each.pair->a.rows;
    }
    const auto reduce = [&](int i) {
        const Piece& piece = pieces_[i];
        const Addition& each = additions_[piece.addition];
        const Dense& a = each.pair->a;
        float* to = each.t + int64_t(piece.first) * a.rows;
        const float* x = inputs + int64_t(each.first + piece.first) * cols;
        kernels.dense(a, piece.tile, piece.tile + 1, x, piece.count, {to, a.rows, nullptr, false});
    };
    // One token's is done sooner than other threads are awake.
    if (work <= 1 << 15) {
        for (int i = 0; i < int(pieces_.size()); i++) reduce(i);
    } else {
        pool.run(int(pieces_.size()), reduce);
    }
    return additions_;
}

void Program::copy_block(int source, int target) {
    for (const int block : {source, target}) {
        if (block < 0 || block >= cache.num_blocks)
            refuse("there is no cache block " + std::to_string(block) + " of " + std::to_string(cache.num_blocks));
    }
    std::lock_guard<std::mutex> guard(pool.busy);
    if (source != target) memcpy(keys(target, 0), keys(source, 0), cache.block() * 2);
}

void Embed::run(Program& program, const Batch& batch) const {
    program.each_row(batch.tokens, [&](int n) {
        float* row = program.row(target, n);
        unpack_row(program.kernels, table, batch.ids_N[n], row);
        for (int i = 0; i < table.cols; i++) row[i] *= scale;
    });
}

void Linear::run(Program& program, const Batch& batch) const {
    const Kernels& kernels = program.kernels;
    const bool logits = target == kLogits;
    const int rows = logits ? batch.wanted : batch.tokens, cols = parts[0].cols;
    if (rows == 0) return;
    const Activations x = program.quantized(rows, cols, fine);
    // An adapter reads the inputs as they are before they are rounded. (The head has none: its rows are others.)
    const bool adapted = !logits && program.adapts(index);
    float* inputs = adapted ? program.inputs(rows, cols) : nullptr;
    program.each_row(rows, [&](int n) {
        const float* from = program.row(source, logits ? batch.wanted_R[n] : n);
        if (before != Before::nothing || adapted) {
            float* made = adapted ? inputs + int64_t(n) * cols : scratch(cols);
            if (before == Before::norm) {
                kernels.norm(from, weight.data(), cols, eps, made);
            } else if (before == Before::gate) {
                kernels.gate(gate, from, from + cols, cols, made);
            } else {
                memcpy(made, from, size_t(cols) * sizeof(float));
            }
            from = made;
        }
        kernels.quantize(from, cols, x, n);
    });
    float* y = logits ? batch.logits_RV : program.row(target, 0);
    const int64_t stride = logits ? program.vocab : program.width(target);
    const Output to{y, stride, bias.empty() ? nullptr : bias.data(), add};
    if (adapted) {
        multiply(kernels, program.pool, parts, x, rows, to, program.additions(index, inputs, cols));
    } else {
        multiply(kernels, program.pool, parts, x, rows, to);
    }
}

void multiply(const Kernels& kernels, Pool& pool, const std::vector<Matrix>& parts, const Activations& x, int rows,
              const Output& out, const std::vector<Addition>& additions) {
    int tiles = 0;
    for (const Matrix& part : parts) tiles += part.tiles();
    // A few chunks a thread, so that one which is slowed down leaves its share to the others; with many rows, two tiles are
    // work enough to share out by itself, and threads end a region at about the same time. Tiles go in pairs: see kTiles.
    const int pairs = (tiles + 1) / 2, chunks = std::min(pairs, (rows < 32 ? 8 : 64) * pool.threads);
    pool.run(chunks, [&](int chunk) {
        int first = 2 * int(int64_t(pairs) * chunk / chunks), row = 0;
        int last = std::min(tiles, 2 * int(int64_t(pairs) * (chunk + 1) / chunks));
        for (size_t p = 0; p < parts.size(); p++) {
            const Matrix& part = parts[p];
            const int end = std::min(last, part.tiles());
            if (first < end) {
                const Output to{out.y + row, out.stride, out.bias ? out.bias + row : nullptr, out.add};
                kernels.linear(part, first, end, x, rows, to);
                for (const Addition& each : additions) {
                    if (each.part != int(p)) continue;
                    const Dense& b = each.pair->b;
                    constexpr int ratio = kTile / kDense;
                    kernels.dense(b, ratio * first, std::min(ratio * end, b.tiles()), each.t, each.count,
                                  {to.y + each.first * to.stride, to.stride, nullptr, true});
                }
            }
            first = std::max(0, first - part.tiles());
            last -= part.tiles();
            row += part.rows;
            if (last <= 0) break;
        }
    });
}

void Attend::append(Program& program, const Batch& batch, int n) const {
    const Kernels& kernels = program.kernels;
    const CacheShape& shape = program.cache;
    const int D = shape.head_dim, width = shape.width(), kv_heads = shape.kv_heads, group = heads / kv_heads;
    const float *cos = program.cos(rope, n), *sin = program.sin(rope, n), *qkv = program.row(source, n);
    float *normed = scratch(2 * width), *turned = normed + width;
    std::fill_n(turned, width, 0.0f);
    const auto turn = [&](const float* x, const std::vector<float>& norm) {
        if (!norm.empty()) {
            kernels.norm(x, norm.data(), D, eps, normed);
            x = normed;
        }
        kernels.rotate(x, cos, sin, D / 2, turned);
    };
    for (int h = 0; h < heads; h++) {
        turn(qkv + h * D, q_norm);
        // Rows of one key-value head lie together: [kv head][token][head of its group].
        float* q = program.queries.data() + ((int64_t(h / group) * batch.tokens + n) * group + h % group) * width;
        for (int d = 0; d < width; d++) q[d] = turned[d] * scale;
    }
    const int place = program.position[n];
    const int block = batch.table_BM[int64_t(program.sequence[n]) * batch.blocks + place / kBlock], slot = place % kBlock;
    uint16_t *keys = program.keys(block, layer), *values = program.values(block, layer);
    for (int h = 0; h < kv_heads; h++) {
        turn(qkv + (heads + h) * D, k_norm);
        uint16_t* half = reinterpret_cast<uint16_t*>(normed);
        kernels.to_half(turned, width, half);
        uint16_t* column = keys + int64_t(h) * width * kBlock + slot;
        for (int d = 0; d < width; d++) column[d * kBlock] = half[d];
        kernels.to_half(qkv + (heads + kv_heads + h) * D, D, values + (int64_t(h) * kBlock + slot) * width);
    }
}

int Attend::first_span(const Program& program, const Part& part) const {
    return std::max(0, program.position[part.first] - window + 1) / kSpan;
}

int Attend::last_span(const Program& program, const Part& part) const {
    return program.position[part.first + part.count - 1] / kSpan;
}

void Attend::attend(Program& program, const Batch& batch, const Part& part, int span, const Gathered& to) const {
    const CacheShape& shape = program.cache;
    const int width = shape.width(), group = heads / shape.kv_heads, rows = part.count * group;
    const int64_t offset = (int64_t(part.kv_head) * batch.tokens + part.first) * group;
    const QueryRows queries{program.queries.data() + offset * width,
                            program.last.data() + int64_t(part.first) * group,
                            to.out,
                            to.max,
                            to.sum,
                            rows};
    std::fill_n(to.out, int64_t(rows) * width, 0.0f);
    std::fill_n(to.max, rows, -INFINITY);
    std::fill_n(to.sum, rows, 0.0f);
    const int32_t* table = batch.table_BM + int64_t(program.sequence[part.first]) * batch.blocks;
    const int begin = std::max(span * kSpan, program.position[part.first] - window + 1);
    const int end = std::min(span * kSpan + kSpan - 1, program.position[part.first + part.count - 1]);
    const int64_t head = int64_t(part.kv_head) * width * kBlock;
    const int last = program.position[part.first + part.count - 1] / kBlock;
    for (int i = begin / kBlock; i <= end / kBlock; i++) {
        const uint16_t *keys = program.keys(table[i], layer) + head, *next = nullptr;
        if (i < last) next = program.keys(table[i + 1], layer) + head;
        const int64_t values = shape.half();
        program.kernels.attend({keys, keys + values, i * kBlock, next, next ? next + values : nullptr}, window, width,
                               queries);
    }
}

void Attend::finish(Program& program, const Part& part, const Gathered& from) const {
    const CacheShape& shape = program.cache;
    const int width = shape.width(), group = heads / shape.kv_heads;
    for (int r = 0; r < part.count * group; r++) {
        const int n = part.first + r / group, h = part.kv_head * group + r % group;
        float* out = program.row(target, n) + h * shape.head_dim;
        const float* mixed = from.out + int64_t(r) * width;
        for (int d = 0; d < shape.head_dim; d++) out[d] = mixed[d] / from.sum[r];
    }
}

void Attend::run(Program& program, const Batch& batch) const {
    const CacheShape& shape = program.cache;
    const int N = batch.tokens, group = heads / shape.kv_heads, width = shape.width();
    at_least(program.queries, int64_t(N) * heads * width);
    at_least(program.last, int64_t(N) * group);
    for (int i = 0; i < N * group; i++) program.last[i] = program.position[i / group];
    program.each_row(N, [&](int n) { append(program, batch, n); });

    constexpr int most = 16;
    std::vector<Part> parts;
    for (int b = 0; b < batch.sequences; b++) {
        const int end = batch.starts_B1[b + 1];
        for (int n = batch.starts_B1[b]; n < end; n += most) {
            for (int k = 0; k < shape.kv_heads; k++) parts.push_back({n, std::min(most, end - n), k});
        }
    }
    const auto floats = [&](int rows) { return int64_t(rows) * (width + 2); };
    const auto gathered = [&](float* at, int rows) {
        return Gathered{at, at + int64_t(rows) * width, at + int64_t(rows) * (width + 1)};
    };
    const auto join = [&](const Gathered& next, int rows, const Gathered& to) {
        for (int r = 0; r < rows; r++) {
            if (next.sum[r] == 0.0f) continue;  // it sees nothing of that span
            const float high = std::max(to.max[r], next.max[r]);
            const float keep = std::exp(to.max[r] - high), more = std::exp(next.max[r] - high);
            to.max[r] = high;
            to.sum[r] = to.sum[r] * keep + next.sum[r] * more;
            float *out = to.out + int64_t(r) * width, *add = next.out + int64_t(r) * width;
            for (int d = 0; d < width; d++) out[d] = out[d] * keep + add[d] * more;
        }
    };
    if (int(parts.size()) >= 2 * program.pool.threads || program.pool.threads == 1) {
        program.pool.run(int(parts.size()), [&](int i) {
            const Part& part = parts[i];
            const int rows = part.count * group;
            float* memory = scratch(int(2 * floats(rows)));
            const Gathered all = gathered(memory, rows), next = gathered(memory + floats(rows), rows);
            const int first = first_span(program, part), last = last_span(program, part);
            attend(program, batch, part, first, all);
            for (int span = first + 1; span <= last; span++) {
                attend(program, batch, part, span, next);
                join(next, rows, all);
            }
            finish(program, part, all);
        });
        return;
    }
    struct Unit {
        int part, span;
        int64_t at;  // where its floats begin
    };
    std::vector<Unit> units;
    std::vector<int> begins;  // each part's first unit
    int64_t size = 0;
    for (int i = 0; i < int(parts.size()); i++) {
        begins.push_back(int(units.size()));
        for (int span = first_span(program, parts[i]); span <= last_span(program, parts[i]); span++) {
            units.push_back({i, span, size});
            size += floats(parts[i].count * group);
        }
    }
    begins.push_back(int(units.size()));
    at_least(program.gathered, size);
    const auto of = [&](const Unit& unit) {
        return gathered(program.gathered.data() + unit.at, parts[unit.part].count * group);
    };
    program.pool.run(int(units.size()), [&](int i) {
        attend(program, batch, parts[units[i].part], units[i].span, of(units[i]));
    });
    for (int i = 0; i < int(parts.size()); i++) {
        const Gathered all = of(units[begins[i]]);
        for (int u = begins[i] + 1; u < begins[i + 1]; u++) join(of(units[u]), parts[i].count * group, all);
        finish(program, parts[i], all);
    }
}

void AddNorm::run(Program& program, const Batch& batch) const {
    const int width = program.width(source);
    program.each_row(batch.tokens, [&](int n) {
        float* normed = scratch(width);
        program.kernels.norm(program.row(source, n), weight.data(), width, eps, normed);
        program.kernels.add(normed, width, program.row(target, n));
    });
}

void unpack_row(const Kernels& kernels, const Matrix& matrix, int row, float* out) {
    const uint8_t* group = matrix.tile(row / kTile);
    const int r = row % kTile, header = kTile * 2 * (matrix.min || matrix.halves ? 2 : 1);
    const auto half = [&](const uint8_t* from) {
        uint16_t value;
        memcpy(&value, from + 2 * r, 2);
        return kernels.from_half(value);
    };
    for (int c = 0; c < matrix.cols; c += kGroup, group += matrix.group_bytes()) {
        const float scale = half(group), second = matrix.halves ? half(group + 2 * kTile) : scale;
        const float low = matrix.min ? half(group + 2 * kTile) : 0.0f;
        for (int i = 0; i < kGroup && c + i < matrix.cols; i++) {
            int q;
            if (matrix.bits == 4) {
                const int byte = group[header + 64 * (i / 8) + 4 * r + i % 4];
                q = (i % 8 < 4 ? byte & 15 : byte >> 4) - (matrix.min ? 0 : 8);
            } else {
                q = int8_t(group[header + 64 * (i / 4) + 4 * r + i % 4]);
            }
            out[c + i] = (i < kGroup / 2 ? scale : second) * float(q) + low;
        }
    }
}

}  // namespace modelworks
