// Includes the kernels of BARROW_SOURCE once per instruction-set level, each time inside the level's namespace and under its
// target, with LANES doubles to a register. No include guard on purpose.

namespace baseline {
#define LANES 2
#include BARROW_SOURCE
#undef LANES
}  // namespace baseline

#if BARROW_X86

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace avx2 {
#define LANES 4
#include BARROW_SOURCE
#undef LANES
}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq")
#endif
namespace avx512 {
#define LANES 8
#include BARROW_SOURCE
#undef LANES
}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // BARROW_X86

#undef BARROW_SOURCE
