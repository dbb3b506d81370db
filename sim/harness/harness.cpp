// Moves whole tensors through a Verilated block: one call, many cycles.
//
// Generated before this text: MODEL_HEADER, MODEL_CLASS, STREAMS(IN, OUT) with one entry a stream,
// in the order of the manifest. Written for little-endian machines, where a payload's bytes are the
// storage of Verilator's own vectors.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "verilated.h"
#include MODEL_HEADER
#if VM_TRACE_FST
#include "verilated_fst_c.h"
using Wave = VerilatedFstC;
#elif VM_TRACE_SAIF
#include "verilated_saif_c.h"
using Wave = VerilatedSaifC;
#endif

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "payloads are moved as bytes");

// A design that does not settle ends the run, not the process.
void vl_fatal(const char* file, int line, const char*, const char* message) {
    throw std::runtime_error(std::string(file) + ":" + std::to_string(line) + ": " + message);
}
void vl_stop(const char* file, int line, const char* hier) { vl_fatal(file, line, hier, "$stop"); }
void vl_finish(const char* file, int line, const char* hier) {
    vl_fatal(file, line, hier, "$finish");
}

// Whether an input besides the clock may have changed since the last evaluation: read by the model.
thread_local bool rtlgen_inputs_changed = true;

namespace {

enum Status : int32_t {
    COMPLETE = 0,
    STOPPED = 1,    // the asked-for cycle was reached
    IDLE = 2,       // no transfer for idle_limit cycles
    DROPPED = 3,    // an output's valid fell before the transfer
    CHANGED = 4,    // an output's payload changed before the transfer
    UNEXPECTED = 5, // an output beat after the last expected one
    BROKEN = 6,     // the model gave up; see message
    FULL = 7,       // an observed output gave more beats than there is room for
};

}  // namespace

extern "C" {

struct StreamRequest {
    uint8_t* data;             // beats, nbytes each
    const int32_t* index;      // inputs: row of data for every beat, or null
    uint64_t beats;            // offered, or expected
    const uint8_t* stall;      // cyclic pattern, 1 holds back, or null
    uint64_t stall_length;
    uint64_t* cycles;          // cycle of every transfer, or null
    uint64_t done;             // result: beats transferred
    uint64_t observed;         // outputs: taken always, beats is the room for what may come
};

struct Request {
    StreamRequest* streams;
    uint64_t reset;        // cycles of reset before cycle 0
    uint64_t stop_at;      // cycle to stop at, whatever is under way
    uint64_t idle_limit;
    uint64_t drain;        // cycles watched after the last expected beat
    uint64_t cycles;       // result: cycles run, reset not counted
    uint64_t first_input;  // result: cycle of the first input transfer
    uint64_t last_output;  // result: cycle of the last output transfer
    int32_t status;        // result
    int32_t stream;        // result: the stream that a violation is of
    char message[256];     // result: why a model gave up
};

}  // extern "C"

namespace {

struct Port {
    bool input;
    size_t nbytes;
    uint8_t top_mask;  // bits of the last byte that exist
    uint8_t* payload;
    CData* valid;
    CData* ready;
};

struct Harness {
    VerilatedContext context;
    std::unique_ptr<MODEL_CLASS> top;
    std::vector<Port> ports;
    std::vector<std::vector<uint8_t>> held;
#if VM_TRACE
    std::unique_ptr<Wave> wave;
#endif
    uint64_t noise = 0x9e3779b97f4a7c15u;

    explicit Harness(uint64_t seed) {
        context.randReset(2);
        context.randSeed(static_cast<int>(seed % 0x7fffffff) + 1);
#if VM_TRACE
        context.traceEverOn(true);
#endif
        top = std::make_unique<MODEL_CLASS>(&context, "top");
#define IN(name, nbytes, mask) \
    ports.push_back({true, nbytes, mask, reinterpret_cast<uint8_t*>(&top->name##payload), \
                     &top->name##valid, &top->name##ready});
#define OUT(name, nbytes, mask) \
    ports.push_back({false, nbytes, mask, reinterpret_cast<uint8_t*>(&top->name##payload), \
                     &top->name##valid, &top->name##ready});
        STREAMS(IN, OUT)
#undef IN
#undef OUT
        for (const Port& port : ports) held.emplace_back(port.nbytes);
    }

    // What a stream without a valid beat carries: never the beat that comes next.
    void scramble(const Port& port) {
        for (size_t i = 0; i < port.nbytes; i += 8) {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            std::memcpy(port.payload + i, &noise, port.nbytes - i < 8 ? port.nbytes - i : 8);
        }
        port.payload[port.nbytes - 1] &= port.top_mask;
    }

    void edge(int level) {
        top->clk = level;
        // Inputs are driven before the low phase only.
        rtlgen_inputs_changed = level == 0;
        top->eval();
#if VM_TRACE
        if (wave) wave->dump(context.time());
#endif
        context.timeInc(1);
    }

    void reset(uint64_t cycles) {
        // Reset wins over everything: the streams are busy while it lasts.
        for (const Port& port : ports) {
            if (port.input) {
                scramble(port);
                *port.valid = 1;
            } else {
                *port.ready = 1;
            }
        }
        top->rst = 1;
        for (uint64_t i = 0; i < cycles; ++i) {
            edge(0);
            edge(1);
        }
        top->rst = 0;
    }

    void run(Request& request) {
        const size_t count = ports.size();
        StreamRequest* const streams = request.streams;
        std::vector<char> waiting(count, 0);
        uint64_t missing = 0;
        for (size_t i = 0; i < count; ++i) {
            streams[i].done = 0;
            if (!streams[i].observed) missing += streams[i].beats;
        }
        request.first_input = UINT64_MAX;
        request.last_output = 0;
        request.status = COMPLETE;
        request.stream = -1;
        if (request.reset) reset(request.reset);
        for (size_t i = 0; i < count; ++i) {
            if (ports[i].input) {
                *ports[i].valid = 0;
                scramble(ports[i]);
            }
        }
        std::vector<uint64_t> phase(count, 0);
        uint64_t idle = 0;
        uint64_t drain = request.drain;
        uint64_t cycle = 0;
        for (;; ++cycle) {
            if (cycle == request.stop_at) {
                request.status = STOPPED;
                break;
            }
            if (missing == 0) {
                // A core that would send one beat too many gets the time to do so.
                if (drain == 0) break;
                --drain;
            } else if (idle++ >= request.idle_limit) {
                request.status = IDLE;
                break;
            }
            for (size_t i = 0; i < count; ++i) {
                const Port& port = ports[i];
                StreamRequest& stream = streams[i];
                bool free = true;
                if (stream.stall != nullptr) {
                    free = !stream.stall[phase[i]];
                    if (++phase[i] == stream.stall_length) phase[i] = 0;
                }
                if (!port.input) {
                    *port.ready = free || missing == 0 || stream.observed;
                } else if (!waiting[i]) {
                    if (free && stream.done < stream.beats) {
                        const uint64_t row = stream.index ? stream.index[stream.done] : stream.done;
                        std::memcpy(port.payload, stream.data + row * port.nbytes, port.nbytes);
                        *port.valid = 1;
                        waiting[i] = 1;
                    } else if (*port.valid) {
                        *port.valid = 0;
                        scramble(port);
                    }
                }
            }
            edge(0);
            for (size_t i = 0; i < count; ++i) {
                const Port& port = ports[i];
                StreamRequest& stream = streams[i];
                if (port.input) {
                    if (waiting[i] && *port.ready) {
                        waiting[i] = 0;
                        if (stream.cycles) stream.cycles[stream.done] = cycle;
                        ++stream.done;
                        --missing;
                        idle = 0;
                        if (request.first_input == UINT64_MAX) request.first_input = cycle;
                    }
                    continue;
                }
                request.stream = static_cast<int32_t>(i);
                if (stream.observed) {
                    if (!*port.valid) continue;
                    if (stream.done == stream.beats) {
                        request.status = FULL;
                        break;
                    }
                    std::memcpy(stream.data + stream.done * port.nbytes, port.payload, port.nbytes);
                    stream.cycles[stream.done++] = cycle;
                    continue;
                }
                if (*port.valid) {
                    if (waiting[i]
                        && std::memcmp(held[i].data(), port.payload, port.nbytes) != 0) {
                        request.status = CHANGED;
                        break;
                    }
                    if (*port.ready) {
                        if (stream.done == stream.beats) {
                            request.status = UNEXPECTED;
                            break;
                        }
                        std::memcpy(stream.data + stream.done * port.nbytes, port.payload,
                                    port.nbytes);
                        if (stream.cycles) stream.cycles[stream.done] = cycle;
                        ++stream.done;
                        --missing;
                        idle = 0;
                        waiting[i] = 0;
                        request.last_output = cycle;
                    } else if (!waiting[i]) {
                        std::memcpy(held[i].data(), port.payload, port.nbytes);
                        waiting[i] = 1;
                    }
                } else if (waiting[i]) {
                    request.status = DROPPED;
                    break;
                }
            }
            if (request.status != COMPLETE) break;
            request.stream = -1;
            edge(1);
        }
        request.cycles = cycle;
    }
};

void say(char* to, const char* what) { std::snprintf(to, 256, "%s", what); }

}  // namespace

extern "C" {

__attribute__((visibility("default"))) void* rtlgen_open(uint64_t seed) {
    try {
        return new Harness(seed);
    } catch (const std::exception&) {
        return nullptr;
    }
}

__attribute__((visibility("default"))) void rtlgen_close(void* handle) {
    delete static_cast<Harness*>(handle);
}

__attribute__((visibility("default"))) void rtlgen_run(void* handle, Request* request) {
    request->message[0] = 0;
    try {
        static_cast<Harness*>(handle)->run(*request);
    } catch (const std::exception& error) {
        request->status = BROKEN;
        say(request->message, error.what());
    }
}

// Starts (path) or ends (null) a recording; 0 if this build has no tracing.
__attribute__((visibility("default"))) int rtlgen_wave(void* handle, const char* path) {
#if VM_TRACE
    Harness* harness = static_cast<Harness*>(handle);
    if (harness->wave) harness->wave->close();
    harness->wave.reset();
    if (path) {
        harness->wave = std::make_unique<Wave>();
        harness->top->trace(harness->wave.get(), 99);
        harness->wave->open(path);
    }
    return 1;
#else
    (void)handle;
    (void)path;
    return 0;
#endif
}

}  // extern "C"
