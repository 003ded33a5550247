// A thread pool for regions of a few microseconds: threads spin briefly between regions, then sleep.
//
// Work is claimed chunk by chunk, and a region ends when its chunks are done, not when threads report: a thread that
// is asleep or preempted while it holds no chunk holds up nobody, so the caller alone makes progress on a busy machine.
#pragma once

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

namespace modelworks {

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Pool {
  public:
    // The process's pool of so many threads, the caller included. Pools live as long as the process: their threads
    // must not outlive them, and joining at exit could wait for ever after a fork.
    static Pool& of(int threads) {
        static std::mutex mutex;
        static auto& pools = *new std::map<int, std::unique_ptr<Pool>>;
        std::lock_guard<std::mutex> guard(mutex);
        auto& pool = pools[threads];
        if (!pool) pool.reset(new Pool(threads));
        return *pool;
    }

    const int threads;
    std::mutex busy;  // to be held by who calls `run`: one caller at a time

    // Call body(i) for each i in [0, chunks) and return when all have returned.
    template <class Body>
    void run(int chunks, const Body& body) {
        if (chunks <= 1 || threads == 1) {
            for (int i = 0; i < chunks; i++) body(i);
            return;
        }
        for (int first = 0; first < chunks; first += kMost) {
            const auto shifted = [&](int i) { body(first + i); };
            region(std::min(kMost, chunks - first), &shifted,
                   [](const void* body, int i) { (*static_cast<const decltype(shifted)*>(body))(i); });
        }
    }

  private:
    using Invoke = void (*)(const void* body, int chunk);
    static constexpr int kMost = 0xffff;

    // A thread's share of a region: the region's number (32 bits), the first chunk that is not yet claimed, and how many
    // are not (16 bits each). Its owner takes the first, others the last, so that each walks through memory forwards.
    // While a chunk is unclaimed its region cannot end: what was read before a successful exchange belongs to it.
    struct alignas(64) Share {
        std::atomic<uint64_t> ticket{0};
        bool empty() const { return (ticket.load() & 0xffff) == 0; }
    };

    explicit Pool(int threads) : threads(threads), shares_(new Share[threads]) {
        for (int i = 1; i < threads; i++) std::thread([this, i] { work(i); }).detach();
    }

    void region(int chunks, const void* body, Invoke invoke) {
        invoke_.store(invoke, std::memory_order_relaxed);
        body_.store(body, std::memory_order_relaxed);
        done_.store(0, std::memory_order_relaxed);
        number_++;
        for (int i = 0; i < threads; i++) {
            const uint64_t first = uint64_t(chunks) * i / threads, last = uint64_t(chunks) * (i + 1) / threads;
            // Sequentially consistent: either a thread about to sleep sees it, or `sleepers_` is seen to be counted up.
            shares_[i].ticket.store(number_ << 32 | first << 16 | (last - first));
        }
        if (sleepers_.load() > 0) {
            std::lock_guard<std::mutex> guard(mutex_);
            wake_.notify_all();
        }
        while (claim(0)) {
        }
        for (int spins = 0; done_.load(std::memory_order_acquire) != chunks; spins++) {
            // Whoever still holds a chunk may be waiting for this very core.
            if (spins < 2000) {
                relax();
            } else {
                sched_yield();
            }
        }
    }

    // Do one chunk, of the thread's own share or else of another's; false if none is left.
    bool claim(int thread) {
        for (int i = 0; i < threads; i++) {
            auto& ticket = shares_[(thread + i) % threads].ticket;
            uint64_t seen = ticket.load(std::memory_order_acquire);
            while (const int left = int(seen & 0xffff)) {
                const Invoke invoke = invoke_.load(std::memory_order_relaxed);
                const void* body = body_.load(std::memory_order_relaxed);
                const uint64_t rest = seen - 1 + (i == 0 ? 1 << 16 : 0);
                if (!ticket.compare_exchange_weak(seen, rest, std::memory_order_acq_rel)) continue;
                const int first = int(seen >> 16 & 0xffff);
                invoke(body, i == 0 ? first : first + left - 1);
                done_.fetch_add(1, std::memory_order_release);
                return true;
            }
        }
        return false;
    }

    void work(int thread) {
        using Clock = std::chrono::steady_clock;
        const Share& own = shares_[thread];
        auto idle_since = Clock::now();
        for (;;) {
            if (claim(thread)) {
                while (claim(thread)) {
                }
                idle_since = Clock::now();
            }
            for (int i = 0; i < 32 && own.empty(); i++) relax();
            if (Clock::now() - idle_since < std::chrono::microseconds(100)) continue;
            std::unique_lock<std::mutex> lock(mutex_);
            sleepers_.fetch_add(1);
            wake_.wait(lock, [&] { return !own.empty(); });
            sleepers_.fetch_sub(1);
            idle_since = Clock::now();
        }
    }

    std::unique_ptr<Share[]> shares_;
    uint64_t number_ = 0;
    alignas(64) std::atomic<int> done_{0};
    alignas(64) std::atomic<Invoke> invoke_{nullptr};
    std::atomic<const void*> body_{nullptr};
    std::atomic<int> sleepers_{0};
    std::mutex mutex_;
    std::condition_variable wake_;
};

}  // namespace modelworks
