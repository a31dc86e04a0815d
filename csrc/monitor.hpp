// What a long computation asks and says now and then: whether to give up, whether its time is over, how far it is.
//
// One monitor watches one call, on all of its threads. Whoever made it is spoken to on the thread that made it and on no
// other; the other threads read a flag. It owns the first exception of the call: from a thread that failed, from a poll that
// saw Ctrl-C, from a listener that had enough.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <mutex>
#include <thread>
#include <utility>

namespace barrow {

class Monitor {
public:
    using Clock = std::chrono::steady_clock;
    using Poll = std::function<void()>;  // throws to end the work
    // How much of a stage is done, of a total that is negative where nobody knows it. Throws to end the work.
    using Listen = std::function<void(const char* stage, std::int64_t done, std::int64_t total)>;

    explicit Monitor(Poll poll = {}, Listen listen = {}, double seconds = std::numeric_limits<double>::infinity())
        : poll_(std::move(poll)), listen_(std::move(listen)), limited_(seconds < 1e9) {
        if (!limited_) return;
        const std::chrono::duration<double> left(seconds > 0 ? seconds : 0);
        deadline_ = Clock::now() + std::chrono::duration_cast<Clock::duration>(left);
    }
    Monitor(const Monitor&) = delete;
    Monitor& operator=(const Monitor&) = delete;

    // Whether to return at once: what is computed from now on is thrown away. Looks at the clock, so it may be asked often.
    bool stop() {
        if (poll_ && !stopped() && here() && due(next_poll_, std::chrono::milliseconds(20))) guarded(poll_);
        return stopped();
    }
    // The flag alone: costs nothing, and sees what another thread has seen.
    bool stopped() const { return stopped_.load(std::memory_order_relaxed); }

    // Whether the time is over: end with the best that there is.
    bool late() const { return limited_ && Clock::now() >= deadline_; }

    // Says how far the work is; heard at most ten times a second, and when a total is reached.
    void tell(const char* stage, std::int64_t done, std::int64_t total = -1) {
        if (!muted_) announce(stage, done, total);
    }

    // For who runs many problems: announces the number of them, while their own stages are muted.
    void mute() { muted_ = true; }
    void announce(const char* stage, std::int64_t done, std::int64_t total) {
        if (!listen_ || stopped() || !here()) return;
        if (due(next_word_, std::chrono::milliseconds(100)) || done == total) guarded([&] { listen_(stage, done, total); });
    }

    // Ends the work with the current exception, unless another came first.
    void fail() {
        const std::lock_guard lock(mutex_);
        if (!failure_) failure_ = std::current_exception();
        stopped_.store(true, std::memory_order_relaxed);
    }
    // Throws what ended the work, if something did.
    void settle() {
        const std::lock_guard lock(mutex_);
        if (failure_) std::rethrow_exception(failure_);
    }

private:
    bool here() const { return std::this_thread::get_id() == home_; }

    static bool due(Clock::time_point& next, Clock::duration pause) {
        const Clock::time_point now = Clock::now();
        if (now < next) return false;
        next = now + pause;
        return true;
    }

    template <class Call>
    void guarded(const Call& call) {
        try {
            call();
        } catch (...) {
            fail();
        }
    }

    Poll poll_;
    Listen listen_;
    bool limited_, muted_ = false;
    Clock::time_point deadline_{}, next_poll_{}, next_word_{};
    std::thread::id home_ = std::this_thread::get_id();
    std::atomic<bool> stopped_{false};
    std::mutex mutex_;
    std::exception_ptr failure_;
};

}  // namespace barrow
