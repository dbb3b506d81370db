// What Verilator's FST writer needs of LZ4, so that waveforms need no package of the system.
// Block format: github.com/lz4/lz4, doc/lz4_Block_format.md. Greedy, one hash table, no dictionary.

#ifndef RTLGEN_FST_LZ4_H
#define RTLGEN_FST_LZ4_H

#include <cstdint>
#include <cstring>
#include <vector>

inline int LZ4_compressBound(int size) { return size + size / 255 + 16; }

namespace rtlgen_fst {

inline char* put_length(char* out, int rest) {
    for (; rest >= 255; rest -= 255) *out++ = static_cast<char>(255);
    *out++ = static_cast<char>(rest);
    return out;
}

// One sequence: literals, then a match, unless match is 0 (the last sequence).
inline char* put_sequence(char* out, const char* literals, int count, int match, int offset) {
    const int high = count < 15 ? count : 15;
    const int low = match == 0 ? 0 : (match - 4 < 15 ? match - 4 : 15);
    *out++ = static_cast<char>(high << 4 | low);
    if (high == 15) out = put_length(out, count - 15);
    std::memcpy(out, literals, static_cast<size_t>(count));
    out += count;
    if (match == 0) return out;
    *out++ = static_cast<char>(offset & 255);
    *out++ = static_cast<char>(offset >> 8);
    return low == 15 ? put_length(out, match - 19) : out;
}

inline uint32_t read32(const char* from) {
    uint32_t value;
    std::memcpy(&value, from, 4);
    return value;
}

}  // namespace rtlgen_fst

// Returns the compressed size; out holds at least LZ4_compressBound(size) bytes, as its callers see to.
inline int LZ4_compress_default(const char* in, char* out, int size, int) {
    using namespace rtlgen_fst;
    char* const begin = out;
    std::vector<int> table(1 << 14, -1);
    int anchor = 0;
    // The format keeps the last five bytes literal and starts no match in the last twelve.
    for (int at = 0; at < size - 12;) {
        int& entry = table[read32(in + at) * 2654435761u >> 18];
        const int found = entry;
        entry = at;
        if (found < 0 || at - found > 65535 || read32(in + found) != read32(in + at)) {
            ++at;
            continue;
        }
        int match = 4;
        while (at + match < size - 5 && in[found + match] == in[at + match]) ++match;
        out = put_sequence(out, in + anchor, at - anchor, match, at - found);
        at += match;
        anchor = at;
    }
    out = put_sequence(out, in + anchor, size - anchor, 0, 0);
    return static_cast<int>(out - begin);
}

#endif
