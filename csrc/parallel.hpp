// Independent problems over a few threads. No OpenMP: it would bring a second runtime next to torch's.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace barrow {

// Calls body(index, stop) for every index below count, on at most `threads` threads of which the caller is one. `body`
// asks stop() now and then and returns early when it is true. `interrupted` is asked on the calling thread only, also while
// it waits for the others. The first exception of any thread ends the work and is thrown again here. Returns false if the
// work was interrupted.
inline bool parallel_for(std::int64_t count, int threads, const std::function<bool()>& interrupted,
                         const std::function<void(std::int64_t, const std::function<bool()>&)>& body) {
    std::atomic<std::int64_t> next{0};
    std::atomic<bool> stopped{false};
    std::exception_ptr failure;
    std::mutex mutex;
    std::condition_variable done;
    int running = 0;
    bool interruption = false;

    const auto work = [&](const std::function<bool()>& stop) {
        try {
            while (!stopped.load(std::memory_order_relaxed)) {
                const std::int64_t index = next.fetch_add(1, std::memory_order_relaxed);
                if (index >= count) break;
                body(index, stop);
            }
        } catch (...) {
            const std::lock_guard lock(mutex);
            if (!failure) failure = std::current_exception();
            stopped = true;
        }
    };
    const std::function<bool()> flag = [&] { return stopped.load(std::memory_order_relaxed); };
    const std::function<bool()> poll = [&] {
        if (!stopped && interrupted()) interruption = true, stopped = true;
        return stopped.load(std::memory_order_relaxed);
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
                    work(flag);
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
        stopped = true;
        for (std::thread& helper : helpers) helper.join();
        throw;
    }
    work(poll);
    {
        std::unique_lock lock(mutex);
        while (running > 0) {
            done.wait_for(lock, std::chrono::milliseconds(50));
            if (running > 0) {
                lock.unlock();
                poll();
                lock.lock();
            }
        }
    }
    for (std::thread& helper : helpers) helper.join();
    if (failure) std::rethrow_exception(failure);
    return !interruption;
}

}  // namespace barrow
