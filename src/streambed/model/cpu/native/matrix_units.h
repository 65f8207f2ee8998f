/* Products by AMX: tiles of sixteen rows of 64 bytes, loaded from operands and blocks as they lie. */
#pragma once
#include "parts.h"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__linux__)
#define SB_MATRIX_UNITS 1
#include <sys/syscall.h>
#include <unistd.h>

enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };

/* Whether the kernel lets this process use them; asked once. */
static inline int has_matrix_units(void) {
    static int known; /* 0: not asked, 1: no, 2: yes; any thread may ask, all get the same */
    int answer = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (!answer) {
        answer = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) ? 1 : 2;
        __atomic_store_n(&known, answer, __ATOMIC_RELAXED);
    }
    return answer == 2;
}

/* Tiles 0 to 3 hold sums, 4 and 5 rows, 6 and 7 outputs. */
static inline void configure(int rows, int more) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } __attribute__((aligned(64))) tiles = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        tiles.bytes[i] = 64;
        tiles.rows[i] = (uint8_t)(i > 5 ? 16 : i == 5 || i == 2 || i == 3 ? more : rows);
    }
    _tile_loadconfig(&tiles);
}

#define DOT(format, sum, x, w)                                                                                           \
    do {                                                                                                                 \
        if (format == SB_BFLOAT16) _tile_dpbf16ps(sum, x, w);                                                            \
        else _tile_dpbusd(sum, x, w);                                                                                    \
    } while (0)

/* Up to sixteen rows, up to four times sixteen outputs at once: each weight is loaded once. */
INLINE void multiply_few(int format, const char *x, int64_t row_bytes, const char *block, int width, int groups,
                         int vectors, float *y) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int g = 0; g < groups; g += 16) {
        const char *w = block + (int64_t)g * width * 4;
        _tile_loadd(4, x + 4 * g, row_bytes);
        _tile_loadd(6, w, width * 4);
        DOT(format, 0, 4, 6);
        if (vectors > 1) {
            _tile_loadd(7, w + 64, width * 4);
            DOT(format, 1, 4, 7);
        }
        if (vectors > 2) {
            _tile_loadd(6, w + 128, width * 4);
            DOT(format, 2, 4, 6);
        }
        if (vectors > 3) {
            _tile_loadd(7, w + 192, width * 4);
            DOT(format, 3, 4, 7);
        }
    }
    _tile_stored(0, y, SB_WIDTH * 4);
    if (vectors > 1) _tile_stored(1, y + 16, SB_WIDTH * 4);
    if (vectors > 2) _tile_stored(2, y + 32, SB_WIDTH * 4);
    if (vectors > 3) _tile_stored(3, y + 48, SB_WIDTH * 4);
}

/* Up to 32 rows, twice sixteen outputs (or once): what is loaded is multiplied twice. */
INLINE void multiply_many(int format, const char *x, int64_t row_bytes, const char *block, int width, int groups,
                          int vectors, float *y) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int g = 0; g < groups; g += 16) {
        const char *w = block + (int64_t)g * width * 4;
        _tile_loadd(4, x + 4 * g, row_bytes);
        _tile_loadd(5, x + 16 * row_bytes + 4 * g, row_bytes);
        _tile_loadd(6, w, width * 4);
        DOT(format, 0, 4, 6);
        DOT(format, 2, 5, 6);
        if (vectors > 1) {
            _tile_loadd(7, w + 64, width * 4);
            DOT(format, 1, 4, 7);
            DOT(format, 3, 5, 7);
        }
    }
    _tile_stored(0, y, SB_WIDTH * 4);
    _tile_stored(2, y + 16 * SB_WIDTH, SB_WIDTH * 4);
    if (vectors > 1) {
        _tile_stored(1, y + 16, SB_WIDTH * 4);
        _tile_stored(3, y + 16 * SB_WIDTH + 16, SB_WIDTH * 4);
    }
}

INLINE void multiply_in_tiles(int format, const char *x, int64_t row_bytes, int rows, const char *block, int width,
                              int groups, int vectors, float *y) {
    int ready = 0,
        full = rows > 16 ? (rows + 15) / 32 * 32 : 0; /* rows in pairs of tiles, the last of which may be short */
    for (int v = 0; v < vectors; v += 2)
        for (int r = 0; r < full; r += 32) {
            int some = rows - r < 32 ? rows - r : 32;
            if (ready != some) configure(16, some - 16);
            ready = some;
            multiply_many(format, x + r * row_bytes, row_bytes, block + 64 * v, width, groups, vectors - v,
                          y + r * SB_WIDTH + 16 * v);
        }
    if (rows > full) {
        configure(rows - full, rows - full);
        for (int v = 0; v < vectors; v += 4)
            multiply_few(format, x + full * row_bytes, row_bytes, block + 64 * v, width, groups, vectors - v,
                         y + full * SB_WIDTH + 16 * v);
    }
    _tile_release();
}
/* Sums of up to sixteen rows and 64 outputs, 32 values of bfloat16 at a time: a row's values [rows], and a block
 * [16][64]. */
static inline void start_sums(int rows) {
    configure(rows, rows);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}
static inline void add_products(const char *x, int64_t row_bytes, const uint32_t *block) {
    _tile_loadd(4, x, row_bytes);
    _tile_loadd(6, block, 256);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, block + 16, 256);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(6, block + 32, 256);
    _tile_dpbf16ps(2, 4, 6);
    _tile_loadd(7, block + 48, 256);
    _tile_dpbf16ps(3, 4, 7);
}
static inline void store_sums(float *y) {
    _tile_stored(0, y, SB_WIDTH * 4);
    _tile_stored(1, y + 16, SB_WIDTH * 4);
    _tile_stored(2, y + 32, SB_WIDTH * 4);
    _tile_stored(3, y + 48, SB_WIDTH * 4);
    _tile_release();
}

/* Four times sixteen rows, each of its own place and stride, times sixteen outputs: y [4][16 rows][16]. bfloat16. */
static inline void multiply_keys(const char *const x[4], const int64_t row_bytes[4], const uint32_t *block, int groups,
                                 float y[4][16 * 16]) {
    configure(16, 16);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int g = 0; g < groups; g += 16) {
        _tile_loadd(6, block + g * 16, 64);
        _tile_loadd(4, x[0] + 4 * g, row_bytes[0]);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, x[1] + 4 * g, row_bytes[1]);
        _tile_dpbf16ps(1, 5, 6);
        _tile_loadd(4, x[2] + 4 * g, row_bytes[2]);
        _tile_dpbf16ps(2, 4, 6);
        _tile_loadd(5, x[3] + 4 * g, row_bytes[3]);
        _tile_dpbf16ps(3, 5, 6);
    }
    _tile_stored(0, y[0], 64);
    _tile_stored(1, y[1], 64);
    _tile_stored(2, y[2], 64);
    _tile_stored(3, y[3], 64);
    _tile_release();
}
#else
static inline int has_matrix_units(void) { return 0; }
INLINE void multiply_in_tiles(int format, const char *x, int64_t row_bytes, int rows, const char *block, int width,
                              int groups, int vectors, float *y) {
    (void)format, (void)x, (void)row_bytes, (void)rows, (void)block, (void)width, (void)groups, (void)vectors, (void)y;
}
#endif
