/* The hot path in C. Each type has the interface of the Python class of the same name (proto/engine.py), which
 * is its reference: read that first. All calls hold the GIL, but for what crew.c gives to other threads, which touch no
 * Python. Keys live in OpenSSL's contexts, and in a layer until it has made them (the block's always); each wipes them when
 * it is freed. */

#ifndef ANONNET_NATIVE_H
#define ANONNET_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <openssl/crypto.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdint.h>
#include <stdbool.h>
#include <stdatomic.h>
#include <string.h>
#include <structmember.h>

#if OPENSSL_VERSION_NUMBER < 0x30000000L
#error "OpenSSL 3.0 or later is needed"
#endif

/* docs/protocol.md sections 2 and 3; compared with anonnet/spec.py in the tests. */
enum {
    HEADER_LEN = 12,
    TAG_LEN = 16,
    CELL_HEADER_LEN = 8,
    RECOGNISED_LEN = 16,
    KEY_LEN = 32,
    ROUTE_NULL = 0,
    ROUTE_CONTROL = 1,
    TYPE_FIRST_HANDSHAKE = 1,
    TYPE_LAST_HANDSHAKE = 3,
    STRIDE = 2048, /* proto/inbox.py */
    NAME_LEN = 28, /* the same */
    CACHE_LINE = 64,
    WINDOW = 2048, /* crypto/replay.py; a multiple of 64 */
    MAX_THREADS = 64,
};
#define RATE_UNIT 1000000000000LL /* proto/orders.py */
#define MOST_OWED (4 * RATE_UNIT)       /* proto/slots.py */
enum { CAUTION = 4, MOST_CAUTION = 64 }; /* proto/queue.py */

static inline uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline uint64_t get64(const uint8_t *p)
{
    return (uint64_t)get32(p) << 32 | get32(p + 4);
}

static inline void put32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 24), p[1] = (uint8_t)(v >> 16), p[2] = (uint8_t)(v >> 8), p[3] = (uint8_t)v;
}

static inline void put64(uint8_t *p, uint64_t v)
{
    put32(p, (uint32_t)(v >> 32)), put32(p + 4, (uint32_t)v);
}

/* Bring memory into the caches, to be read. */
static inline void fetch(const void *at, size_t len)
{
    for (size_t done = 0; done < len; done += CACHE_LINE)
        __builtin_prefetch((const char *)at + done);
}

/* Things that are each other's followers, tick after tick, for as long as nothing changes: what the next one needs can be
 * fetched while there is other work. Nobody owns a chain: a thing leaves it before it is gone. */
typedef struct Chain {
    struct Chain *before, *after; /* the last time, or NULL */
} Chain;

static inline void chain_join(Chain *before, Chain *after)
{
    if (before->after == after)
        return;
    if (before->after != NULL)
        before->after->before = NULL;
    if (after->before != NULL)
        after->before->after = NULL;
    before->after = after, after->before = before;
}

static inline void chain_leave(Chain *self)
{
    if (self->before != NULL)
        self->before->after = NULL;
    if (self->after != NULL)
        self->after->before = NULL;
}

/* -- crew.c ------------------------------------------------------------------------------------------- */

/* One item of a batch, done by thread `who`: 0 is the one that has the GIL, the others may touch no Python. */
typedef void (*Work)(void *context, size_t item, int who);

/* Do all items, `run` of them at a time; return when all are done. Which thread does which is nobody's to say. */
void crew_share(Work work, void *context, size_t count, size_t run);
int crew_size(void); /* threads, with the caller's */
bool crew_worker(void); /* whether this thread is one of the others */
PyObject *crew_threads(PyObject *module, PyObject *argument);

/* -- aead.c ------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    int threads; /* that may use it at once */
    EVP_CIPHER_CTX **contexts; /* one for each */
    EVP_CIPHER_CTX *first; /* of these */
    const void *state;     /* its: see context_state */
} AeadObject;

extern PyTypeObject SealerType, OpenerType;

/* Each returns 0, or -1 with an exception set (but in a worker); `aead_open` 1 when the datagram is forged. */
int aead_init(void);
int aead_seal(AeadObject *self, int who, const uint8_t *nonce, const uint8_t *cell, size_t len, uint8_t *sealed);
int aead_open(AeadObject *self, int who, const uint8_t *nonce, const uint8_t *sealed, size_t len, uint8_t *cell);
void aead_fetch(const AeadObject *self); /* bring what it needs into the caches, for the one that has the GIL */
EVP_CIPHER_CTX *context_new(const EVP_CIPHER *cipher, const uint8_t *key, bool encrypt);
/* Where a context has its state and keys: an address amidst them, to be fetched and for nothing else. NULL: unknown. */
const void *context_state(EVP_CIPHER_CTX *context);
/* Bytes, about: what OpenSSL 3 keeps before and from that address on. */
enum { CONTEXT_LEN = 184, GCM_BEFORE = 85, GCM_LEN = 960, KEYS_BEFORE = 32, KEYS_LEN = 448 };
void context_fetch(const EVP_CIPHER_CTX *context, const void *state, size_t before, size_t len);
int openssl_failed(void);
int take_key(PyObject *object, const uint8_t **key);
extern EVP_CIPHER *aes_gcm;

/* -- layer.c ------------------------------------------------------------------------------------------ */

typedef struct {
    PyObject_HEAD
    EVP_CIPHER_CTX *hash, *stream, *block, *unblock; /* made with the first cell, of the last two the one that it needs */
    const void *hash_state, *stream_state, *block_state; /* see context_state; of who enciphers */
    uint8_t block_key[KEY_LEN];
    uint8_t (*other_keys)[KEY_LEN]; /* until the first cell; not Python's memory, which a crew may not free */
} LayerObject;

extern PyTypeObject LayerType, OnionType;

int layer_init(void);
/* Bodies of `len` bytes, which may be the same; `len` is checked by who calls. 0, or -1 with an exception. */
int layer_encipher(LayerObject *self, uint32_t slot, const uint8_t *source, uint8_t *target, size_t len);
int layer_decipher(LayerObject *self, uint32_t slot, uint8_t *body, size_t len);
void layer_fetch_hash(const LayerObject *self); /* bring what enciphering needs first into the caches */
void layer_fetch_keys(const LayerObject *self); /* and the rest of it: more at once would have to wait */
bool recognised(const uint8_t *body);

/* -- window.c ----------------------------------------------------------------------------------------- */

typedef struct {
    bool any;
    uint64_t greatest;
    uint64_t bits[WINDOW / 64]; /* by counter modulo WINDOW */
} Window;

typedef struct {
    PyObject_HEAD
    Window window;
} ReplayWindowObject;

extern PyTypeObject ReplayWindowType, SlotWindowType;

bool window_accept(Window *window, uint64_t counter);
PyObject *window_greatest(const Window *window);

/* -- queue.c ------------------------------------------------------------------------------------------ */

/* What a queue has for a slot number modulo its capacity. */
typedef struct {
    uint64_t filled; /* which slot's cell is whole */
    uint8_t *cell;   /* or NULL */
} Waiting;

/* What each cell needs comes first: with hundreds of queues each of them is far from the processor. */
typedef struct {
    PyObject_HEAD
    Waiting *waiting;
    uint8_t *spare; /* the cell that was used last, if it is free, or NULL */
    uint32_t mask, next;
    size_t cell_len;
    long near, good, ample, prefill;
    long long received, turn, late, early;
    bool synced, fresh, unsure;
    uint32_t spares;
    uint8_t **older; /* other cells that are free, the last used last */
    PyObject *format; /* of the rows that Python may want to see */
    long tick, anew, spacing;
    double majority, surplus, plenty, stall;
    int calm, caution;
    long long missing, slips;
} QueueObject;

extern PyTypeObject ForwardQueueType;

int queue_init(void);
uint8_t *queue_cell(QueueObject *self, uint32_t slot); /* that has been claimed; NULL if it has not */
PyObject *queue_row(QueueObject *self, uint8_t *cell); /* new reference, or NULL with an exception */
void queue_fetch(const QueueObject *self, bool cell);
void queue_fetch_claim(const QueueObject *self);
uint8_t *queue_claim(QueueObject *self, uint32_t slot); /* NULL: late, a duplicate or absurd; or no memory */
void queue_commit(QueueObject *self, uint32_t slot);
typedef enum { TAKE_HOLD, TAKE_ABSENT, TAKE_CELL } Taken;
/* The cell stays what it is until the next claim. */
Taken queue_take(QueueObject *self, long long tick, uint32_t *slot, uint8_t **cell);

/* -- transit.c ---------------------------------------------------------------------------------------- */

extern PyTypeObject InletType, OutletType;

/* Cells that go on beyond this node need no Python, until one of them is recognised: `inlet_forward` returns 1 then,
 * 0 when it took the cell, -1 when it failed. One thread at a time for each inlet. */
bool inlet_forwards(PyObject *self, size_t len);
int inlet_forward(PyObject *self, uint32_t slot, const uint8_t *cell, size_t len);
int inlet_recognised(PyObject *self, uint32_t slot, long long now); /* 0, or -1 with an exception */
int *inlet_mark(PyObject *self); /* for whoever sorts cells by inlet; 0 when they are sorted */

/* A cell has come: `row` is the CellRow that holds `cell` (`len` bytes). 0, or -1 with an exception. */
int inlet_receive(PyObject *self, uint32_t slot, PyObject *row, const uint8_t *cell, size_t len, long long now);

/* The next cell due. Either `cell`, valid until the queue is touched again, or `row`, a new reference; or none. */
typedef struct {
    const uint8_t *cell;
    size_t len;
    QueueObject *queue; /* that holds `cell`; borrowed */
    PyObject *row;
} Due;
/* Bring what `outlet_take` will need into the caches, from the lane on, a step at a time. */
enum { OUTLET_STEPS = 5 };
void outlet_fetch(PyObject *take, int step);
int outlet_take(PyObject *self, long long tick, Due *due);

/* -- outbox.c, intake.c ------------------------------------------------------------------------------- */

extern PyTypeObject LaneType, FillerType, ReceiveSessionType, IntakeType;
PyObject *outbox_fill(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* -- batch.c ------------------------------------------------------------------------------------------ */

/* Where a datagram is to be, and the cell that it is made of. */
typedef struct {
    AeadObject *sealer;
    uint8_t *at;
    const uint8_t *cell;
    size_t len; /* of the cell */
    uint64_t counter;
    uint32_t start;
} Place;

int place_seal(const Place *place, int who);
/* Seal it later. `keeper` has the cell until then; without one it is copied at once. 0, or -1 with an exception. */
int batch_add(Place place, PyObject *keeper);
int batch_hold(PyObject *object); /* until it is sealed: whatever else it is made of */
void batch_drop(void); /* all that was to be sealed: a link of the beat could not be filled */
int batch_seal(void); /* all of it. 0, or -1 with an exception */
/* -- segment.c ---------------------------------------------------------------------------------------- */

extern PyTypeObject SegmenterType, UnpackerType;

/* -- train.c ------------------------------------------------------------------------------------------ */

PyObject *train_join(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *train_complete(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *train_rewrite(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* -- module.c ----------------------------------------------------------------------------------------- */

/* Hold the memory of a CellRow's `cell`; at least headers and a byte. Release with PyBuffer_Release. */
int row_cell(PyObject *row, Py_buffer *view);
int object_memory(PyObject *object, Py_buffer *view); /* of an inbox or outbox; the same */
extern PyObject *invalid_tag, *rows_of;
extern PyObject *name_offset, *name_lengths, *name_names; /* of an inbox */

#endif
