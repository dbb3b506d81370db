// What Verilator's FST writer needs of zlib, so that waveforms need no package of the system.
// Streams are valid and not compressed (RFC 1950, 1951: stored blocks); the writer keeps the smaller
// of the stream and the data itself, so that a reader meets the data itself.

#ifndef RTLGEN_FST_ZLIB_H
#define RTLGEN_FST_ZLIB_H

#include <cstdint>
#include <cstring>
#include <initializer_list>

using Bytef = unsigned char;
using uLong = unsigned long;
using uLongf = unsigned long;
constexpr int Z_OK = 0;
constexpr int Z_BUF_ERROR = -5;

inline uLong compressBound(uLong size) { return size + (size / 65535 + 1) * 5 + 6; }

inline int compress2(Bytef* out, uLongf* out_size, const Bytef* in, uLong size, int) {
    if (*out_size < compressBound(size)) return Z_BUF_ERROR;
    Bytef* const begin = out;
    *out++ = 0x78;
    *out++ = 0x01;
    uint32_t low = 1, high = 0;
    uLong at = 0;
    do {
        const uLong left = size - at;
        const unsigned part = left < 65535 ? static_cast<unsigned>(left) : 65535u;
        *out++ = at + part == size;
        *out++ = part & 255;
        *out++ = part >> 8;
        *out++ = ~part & 255;
        *out++ = (~part >> 8) & 255;
        std::memcpy(out, in + at, part);
        out += part;
        for (unsigned i = 0; i < part; ++i) {
            low = (low + in[at + i]) % 65521;
            high = (high + low) % 65521;
        }
        at += part;
    } while (at < size);
    for (int shift : {8, 0}) *out++ = high >> shift & 255;
    for (int shift : {8, 0}) *out++ = low >> shift & 255;
    *out_size = static_cast<uLongf>(out - begin);
    return Z_OK;
}

#endif
