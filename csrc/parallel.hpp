// Independent problems over a few threads. No OpenMP: it would bring a second runtime next to torch's.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "monitor.hpp"

namespace barrow {

// Calls body(index, monitor) for every index below count, on at most `threads` threads of which the caller is one. `body`
// asks monitor.stop() now and then and returns early when it is true; the calling thread also asks while it waits for the
// others. `pulse(done)` is called on the calling thread, after each of its problems and while it waits, with the number of
// problems done on all threads. The first exception of any thread ends the work and is thrown again here.
inline void parallel_for(std::int64_t count, int threads, Monitor& monitor,
                         const std::function<void(std::int64_t, Monitor&)>& body,
                         const std::function<void(std::int64_t)>& pulse = {}) {
    std::atomic<std::int64_t> next{0}, finished{0};
    std::mutex mutex;
    std::condition_variable done;
    int running = 0;

    std::int64_t told = -1;

    const auto beat = [&] {
        const std::int64_t now = finished.load(std::memory_order_relaxed);
        if (!pulse || now == told) return;
        try {
            pulse(told = now);
        } catch (...) {
            monitor.fail();
        }
    };
    const auto work = [&](bool home) {
        try {
            while (!monitor.stopped()) {
                const std::int64_t index = next.fetch_add(1, std::memory_order_relaxed);
                if (index >= count) break;
                body(index, monitor);
                finished.fetch_add(1, std::memory_order_relaxed);
                if (home) monitor.stop(), beat();
            }
        } catch (...) {
            monitor.fail();
        }
    };

    std::vector<std::thread> helpers;
    const std::int64_t wanted = std::min<std::int64_t>(threads, count) - 1;
    try {
        for (std::int64_t k = 0; k < wanted; ++k) {
            {
                const std::lock_guard lock(mutex);
                ++running;
            }
            try {
                helpers.emplace_back([&] {
                    work(false);
                    const std::lock_guard lock(mutex);
                    --running;
                    done.notify_one();
                });
            } catch (...) {
                const std::lock_guard lock(mutex);
                --running;
                throw;
            }
        }
    } catch (const std::system_error&) {
        // The system grants no more threads: those that run do the work.
    } catch (...) {
        monitor.fail();
    }
    work(true);
    {
        std::unique_lock lock(mutex);
        while (running > 0) {
            done.wait_for(lock, std::chrono::milliseconds(50));
            lock.unlock();
            monitor.stop(), beat();
            lock.lock();
        }
    }
    for (std::thread& helper : helpers) helper.join();
    beat();
    monitor.settle();
}

}  // namespace barrow
