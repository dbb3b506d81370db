// Sixteen instances of one module at once: every value of Verilator's code becomes a vector.
//
// The code of a module that many instances share is straight-line arithmetic on words, with branches
// on what all instances share. With the types below in place of Verilator's own the same text
// computes a group of instances; where it does anything else (a branch on a value of one instance)
// it does not compile, and the ordinary code is used.

#ifndef RTLGEN_LANES_H
#define RTLGEN_LANES_H

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "verilated.h"

namespace lanes {

constexpr int COUNT = 16;
using Vec = uint32_t __attribute__((vector_size(4 * COUNT)));
using Vec64 = uint64_t __attribute__((vector_size(8 * COUNT)));

#define RTLGEN_INLINE inline __attribute__((always_inline))

struct Quads;
struct Lanes {
    Vec v;
    Lanes() = default;
    RTLGEN_INLINE explicit Lanes(Quads value);
    RTLGEN_INLINE explicit Lanes(Vec vec) : v(vec) {}
    RTLGEN_INLINE Lanes(uint32_t word) : v(word - Vec{}) {}
};

// A variable that Verilator stores in 8 or 16 bits: what is written is cut as it is there.
template <uint32_t MASK>
struct Stored {
    Vec v;
    Stored() = default;
    RTLGEN_INLINE Stored(uint32_t word) : v((word & MASK) - Vec{}) {}
    RTLGEN_INLINE Stored(Lanes value) : v(value.v & MASK) {}
    RTLGEN_INLINE Stored(Quads value);
    RTLGEN_INLINE operator Lanes() const { return Lanes(v); }
};

// A word of 64 bits.
struct Quads {
    Vec64 v;
    Quads() = default;
    RTLGEN_INLINE explicit Quads(Vec64 vec) : v(vec) {}
    RTLGEN_INLINE Quads(uint64_t word) : v(word - Vec64{}) {}
    RTLGEN_INLINE Quads(Lanes value) : v(__builtin_convertvector(value.v, Vec64)) {}
    template <uint32_t MASK>
    RTLGEN_INLINE Quads(Stored<MASK> value) : Quads(Lanes(value.v)) {}
};
RTLGEN_INLINE Lanes::Lanes(Quads value) : v(__builtin_convertvector(value.v, Vec)) {}
template <uint32_t MASK>
RTLGEN_INLINE Stored<MASK>::Stored(Quads value) : Stored(Lanes(value)) {}

template <std::size_t WORDS>
struct Wide {
    Lanes words[WORDS];
    RTLGEN_INLINE Lanes& operator[](std::size_t i) { return words[i]; }
};

RTLGEN_INLINE Lanes operator&(Lanes a, Lanes b) { return Lanes(a.v & b.v); }
RTLGEN_INLINE Lanes operator|(Lanes a, Lanes b) { return Lanes(a.v | b.v); }
RTLGEN_INLINE Lanes operator^(Lanes a, Lanes b) { return Lanes(a.v ^ b.v); }
RTLGEN_INLINE Lanes operator+(Lanes a, Lanes b) { return Lanes(a.v + b.v); }
RTLGEN_INLINE Lanes operator-(Lanes a, Lanes b) { return Lanes(a.v - b.v); }
RTLGEN_INLINE Lanes operator*(Lanes a, Lanes b) { return Lanes(a.v * b.v); }
RTLGEN_INLINE Lanes operator<<(Lanes a, Lanes b) { return Lanes(a.v << b.v); }
RTLGEN_INLINE Lanes operator>>(Lanes a, Lanes b) { return Lanes(a.v >> b.v); }
RTLGEN_INLINE Lanes operator<<(Lanes a, uint32_t b) { return Lanes(a.v << b); }
RTLGEN_INLINE Lanes operator>>(Lanes a, uint32_t b) { return Lanes(a.v >> b); }
RTLGEN_INLINE Lanes operator~(Lanes a) { return Lanes(~a.v); }
RTLGEN_INLINE Lanes operator-(Lanes a) { return Lanes(-a.v); }
// A comparison of vectors gives all ones; in the language it is a 1.
RTLGEN_INLINE Lanes operator==(Lanes a, Lanes b) { return Lanes((Vec)(a.v == b.v) & 1u); }
RTLGEN_INLINE Lanes operator!=(Lanes a, Lanes b) { return Lanes((Vec)(a.v != b.v) & 1u); }
RTLGEN_INLINE Lanes operator<(Lanes a, Lanes b) { return Lanes((Vec)(a.v < b.v) & 1u); }
RTLGEN_INLINE Lanes operator>(Lanes a, Lanes b) { return Lanes((Vec)(a.v > b.v) & 1u); }
RTLGEN_INLINE Lanes operator<=(Lanes a, Lanes b) { return Lanes((Vec)(a.v <= b.v) & 1u); }
RTLGEN_INLINE Lanes operator>=(Lanes a, Lanes b) { return Lanes((Vec)(a.v >= b.v) & 1u); }
RTLGEN_INLINE Lanes operator!(Lanes a) { return a == Lanes(0u); }
RTLGEN_INLINE Lanes operator&&(Lanes a, Lanes b) { return (a != Lanes(0u)) & (b != Lanes(0u)); }
RTLGEN_INLINE Lanes operator||(Lanes a, Lanes b) { return (a != Lanes(0u)) | (b != Lanes(0u)); }

RTLGEN_INLINE Quads operator&(Quads a, Quads b) { return Quads(a.v & b.v); }
RTLGEN_INLINE Quads operator|(Quads a, Quads b) { return Quads(a.v | b.v); }
RTLGEN_INLINE Quads operator^(Quads a, Quads b) { return Quads(a.v ^ b.v); }
RTLGEN_INLINE Quads operator+(Quads a, Quads b) { return Quads(a.v + b.v); }
RTLGEN_INLINE Quads operator-(Quads a, Quads b) { return Quads(a.v - b.v); }
RTLGEN_INLINE Quads operator<<(Quads a, uint32_t b) { return Quads(a.v << (uint64_t)b); }
RTLGEN_INLINE Quads operator>>(Quads a, uint32_t b) { return Quads(a.v >> (uint64_t)b); }
RTLGEN_INLINE Quads operator~(Quads a) { return Quads(~a.v); }
RTLGEN_INLINE Quads operator-(Quads a) { return Quads(-a.v); }
RTLGEN_INLINE Quads operator*(Quads a, Quads b) { return Quads(a.v * b.v); }
RTLGEN_INLINE Lanes truth(Vec64 v) { return Lanes(__builtin_convertvector(v & 1u, Vec)); }
RTLGEN_INLINE Lanes operator==(Quads a, Quads b) { return truth((Vec64)(a.v == b.v)); }
RTLGEN_INLINE Lanes operator!=(Quads a, Quads b) { return truth((Vec64)(a.v != b.v)); }
RTLGEN_INLINE Lanes operator<(Quads a, Quads b) { return truth((Vec64)(a.v < b.v)); }
RTLGEN_INLINE Lanes operator>(Quads a, Quads b) { return truth((Vec64)(a.v > b.v)); }
RTLGEN_INLINE Lanes operator<=(Quads a, Quads b) { return truth((Vec64)(a.v <= b.v)); }
RTLGEN_INLINE Lanes operator>=(Quads a, Quads b) { return truth((Vec64)(a.v >= b.v)); }
RTLGEN_INLINE Lanes operator!(Quads a) { return a == Quads(uint64_t{0}); }

RTLGEN_INLINE Lanes VL_REDXOR_32(Lanes a) {
    for (uint32_t shift = 16; shift; shift >>= 1) a = a ^ (a >> shift);
    return a & Lanes(1u);
}
RTLGEN_INLINE Lanes VL_REDXOR_64(Quads a) { return VL_REDXOR_32(Lanes(a ^ (a >> 32u))); }
RTLGEN_INLINE Lanes VL_REDXOR_16(Lanes a) { return VL_REDXOR_32(a & Lanes(0xffffu)); }
RTLGEN_INLINE Lanes VL_REDXOR_8(Lanes a) { return VL_REDXOR_32(a & Lanes(0xffu)); }
RTLGEN_INLINE Lanes VL_REDXOR_4(Lanes a) { return VL_REDXOR_32(a & Lanes(0xfu)); }
RTLGEN_INLINE Lanes VL_REDXOR_2(Lanes a) { return VL_REDXOR_32(a & Lanes(0x3u)); }

// The lane form of a member's type.
template <class T>
struct Form;
template <>
struct Form<uint8_t> {
    using type = Stored<0xffu>;
};
template <>
struct Form<uint16_t> {
    using type = Stored<0xffffu>;
};
template <>
struct Form<uint32_t> {
    using type = Lanes;
};
template <>
struct Form<uint64_t> {
    using type = Quads;
};
template <std::size_t WORDS>
struct Form<VlWide<WORDS>> {
    using type = Wide<WORDS>;
};

template <class T, class F, class S>
RTLGEN_INLINE void gather(F& to, S* const* instances, T S::*member) {
    alignas(4 * COUNT) uint32_t words[COUNT];
    for (int i = 0; i < COUNT; ++i) words[i] = instances[i]->*member;
    std::memcpy(&to.v, words, sizeof(words));
}
template <class S>
RTLGEN_INLINE void gather(Quads& to, S* const* instances, QData S::*member) {
    alignas(8 * COUNT) uint64_t words[COUNT];
    for (int i = 0; i < COUNT; ++i) words[i] = instances[i]->*member;
    std::memcpy(&to.v, words, sizeof(words));
}
template <std::size_t WORDS, class S>
RTLGEN_INLINE void gather(Wide<WORDS>& to, S* const* instances, VlWide<WORDS> S::*member) {
    alignas(4 * COUNT) uint32_t words[COUNT];
    for (std::size_t k = 0; k < WORDS; ++k) {
        for (int i = 0; i < COUNT; ++i) words[i] = (instances[i]->*member)[k];
        std::memcpy(&to.words[k].v, words, sizeof(words));
    }
}
template <class T, class F, class S>
RTLGEN_INLINE void scatter(const F& from, S* const* instances, T S::*member) {
    alignas(4 * COUNT) uint32_t words[COUNT];
    std::memcpy(words, &from.v, sizeof(words));
    for (int i = 0; i < COUNT; ++i) instances[i]->*member = static_cast<T>(words[i]);
}
template <class S>
RTLGEN_INLINE void scatter(const Quads& from, S* const* instances, QData S::*member) {
    alignas(8 * COUNT) uint64_t words[COUNT];
    std::memcpy(words, &from.v, sizeof(words));
    for (int i = 0; i < COUNT; ++i) instances[i]->*member = words[i];
}
template <std::size_t WORDS, class S>
RTLGEN_INLINE void scatter(const Wide<WORDS>& from, S* const* instances,
                           VlWide<WORDS> S::*member) {
    alignas(4 * COUNT) uint32_t words[COUNT];
    for (std::size_t k = 0; k < WORDS; ++k) {
        std::memcpy(words, &from.words[k].v, sizeof(words));
        for (int i = 0; i < COUNT; ++i) (instances[i]->*member)[k] = words[i];
    }
}

}  // namespace lanes

#endif
