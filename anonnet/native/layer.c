/* The onion layer, UIV: see crypto/onion.py for the construction and why it is sound. */

#include "native.h"

static EVP_CIPHER *aes_ecb, *aes_ctr;
static const uint8_t hash_nonce[12];
enum { HASH_KEY, STREAM_KEY, OTHER_KEYS }; /* with the block's between them in LayerKeys */

int layer_init(void)
{
    aes_ecb = EVP_CIPHER_fetch(NULL, "AES-256-ECB", NULL);
    aes_ctr = EVP_CIPHER_fetch(NULL, "AES-256-CTR", NULL);
    return aes_ecb && aes_ctr ? 0 : openssl_failed();
}

bool recognised(const uint8_t *body)
{
    uint64_t left[2];
    memcpy(left, body, sizeof left);
    return (left[0] | left[1]) == 0;
}

/* Only a context for blocks is told not to pad: it would tell its cipher again, by name, with each nonce it is given. */
static EVP_CIPHER_CTX *unpadded(const uint8_t *key, bool encrypt)
{
    EVP_CIPHER_CTX *context = context_new(aes_ecb, key, encrypt);
    if (context != NULL && EVP_CIPHER_CTX_set_padding(context, 0) != 1) {
        EVP_CIPHER_CTX_free(context);
        openssl_failed();
        return NULL;
    }
    return context;
}

static void forget_other_keys(LayerObject *self)
{
    OPENSSL_clear_free(self->other_keys, OTHER_KEYS * sizeof *self->other_keys);
    self->other_keys = NULL;
}

/* All contexts at once, with the first cell: what cells need one after the other is then near each other. Who enciphers
 * never deciphers: only one of the two contexts for blocks is ever made. The last one tells that all are there. */
static int prepare(LayerObject *self, EVP_CIPHER_CTX **block)
{
    bool enciphers = block == &self->block;
    if (*block != NULL)
        return 0;
    if ((self->hash == NULL && (self->hash = context_new(aes_gcm, self->other_keys[HASH_KEY], true)) == NULL) ||
        (self->stream == NULL && (self->stream = context_new(aes_ctr, self->other_keys[STREAM_KEY], true)) == NULL) ||
        (*block = unpadded(self->block_key, enciphers)) == NULL)
        return -1;
    forget_other_keys(self);
    if (!enciphers)
        return 0;
    if (EVP_EncryptInit_ex2(self->hash, NULL, NULL, hash_nonce, NULL) != 1) /* without, it does not say where it is */
        return openssl_failed();
    self->hash_state = context_state(self->hash);
    self->stream_state = context_state(self->stream);
    self->block_state = context_state(self->block);
    return 0;
}

/* m = GMAC_h(nonce 0, T | X_R) */
static int hash(LayerObject *self, uint32_t slot, const uint8_t *right, size_t len, uint8_t m[16])
{
    uint8_t tweak[16] = {0};
    int done;
    put32(tweak + 12, slot);
    if (EVP_EncryptInit_ex2(self->hash, NULL, NULL, hash_nonce, NULL) != 1 ||
        EVP_EncryptUpdate(self->hash, NULL, &done, tweak, 16) != 1 ||
        EVP_EncryptUpdate(self->hash, NULL, &done, right, (int)len) != 1 ||
        EVP_EncryptFinal_ex(self->hash, tweak, &done) != 1 ||
        EVP_CIPHER_CTX_ctrl(self->hash, EVP_CTRL_AEAD_GET_TAG, TAG_LEN, m) != 1)
        return openssl_failed();
    return 0;
}

/* target = AES(source xor m) xor m, either way */
static int block(EVP_CIPHER_CTX *context, const uint8_t m[16], const uint8_t *source, uint8_t *target)
{
    uint8_t x[16];
    int done = 0;
    for (int i = 0; i < 16; i++)
        x[i] = source[i] ^ m[i];
    if (EVP_CipherUpdate(context, x, &done, x, 16) != 1 || done != 16)
        return openssl_failed();
    for (int i = 0; i < 16; i++)
        target[i] = x[i] ^ m[i];
    return 0;
}

static int stream(LayerObject *self, const uint8_t *start, const uint8_t *source, uint8_t *target, size_t len)
{
    int done = 0;
    if (EVP_EncryptInit_ex2(self->stream, NULL, NULL, start, NULL) != 1 ||
        EVP_EncryptUpdate(self->stream, target, &done, source, (int)len) != 1 || done != (int)len)
        return openssl_failed();
    return 0;
}

int layer_encipher(LayerObject *self, uint32_t slot, const uint8_t *source, uint8_t *target, size_t len)
{
    uint8_t m[16], y[16];
    size_t right = len - 16;
    if (prepare(self, &self->block) < 0 || hash(self, slot, source + 16, right, m) < 0 ||
        block(self->block, m, source, y) < 0 || stream(self, y, source + 16, target + 16, right) < 0)
        return -1;
    memcpy(target, y, 16);
    return 0;
}

void layer_fetch_hash(const LayerObject *self)
{
    context_fetch(self->hash, self->hash_state, GCM_BEFORE, GCM_LEN);
}

void layer_fetch_keys(const LayerObject *self)
{
    context_fetch(self->block, self->block_state, KEYS_BEFORE, KEYS_LEN);
    context_fetch(self->stream, self->stream_state, KEYS_BEFORE, KEYS_LEN);
}

int layer_decipher(LayerObject *self, uint32_t slot, uint8_t *body, size_t len)
{
    uint8_t m[16];
    size_t right = len - 16;
    if (prepare(self, &self->unblock) < 0 || stream(self, body, body + 16, body + 16, right) < 0 ||
        hash(self, slot, body + 16, right, m) < 0)
        return -1;
    return block(self->unblock, m, body, body);
}

static void layer_dealloc(PyObject *object)
{
    LayerObject *self = (LayerObject *)object;
    EVP_CIPHER_CTX_free(self->hash);
    EVP_CIPHER_CTX_free(self->block);
    EVP_CIPHER_CTX_free(self->unblock);
    EVP_CIPHER_CTX_free(self->stream);
    OPENSSL_cleanse(self->block_key, KEY_LEN);
    forget_other_keys(self);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *layer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"keys", NULL};
    PyObject *keys;
    const uint8_t *key[3];
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!", names, &PyTuple_Type, &keys))
        return NULL;
    if (PyTuple_GET_SIZE(keys) != 3) {
        PyErr_SetString(PyExc_ValueError, "a layer has three keys");
        return NULL;
    }
    for (int i = 0; i < 3; i++)
        if (take_key(PyTuple_GET_ITEM(keys, i), &key[i]) < 0)
            return NULL;
    LayerObject *self = (LayerObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->other_keys = OPENSSL_malloc(OTHER_KEYS * sizeof *self->other_keys);
    if (self->other_keys == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    memcpy(self->other_keys[HASH_KEY], key[0], KEY_LEN);
    memcpy(self->block_key, key[1], KEY_LEN);
    memcpy(self->other_keys[STREAM_KEY], key[2], KEY_LEN);
    return (PyObject *)self;
}

static int take_slot(PyObject *object, uint32_t *slot)
{
    unsigned long value = PyLong_AsUnsignedLong(object);
    if (value == (unsigned long)-1 && PyErr_Occurred())
        return -1;
    if (value > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "a slot number has 32 bits");
        return -1;
    }
    *slot = (uint32_t)value;
    return 0;
}

static PyObject *left_of(const Py_buffer *cell)
{
    return PyBytes_FromStringAndSize((const char *)cell->buf + CELL_HEADER_LEN, RECOGNISED_LEN);
}

static PyObject *layer_py_encipher(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer source, target;
    uint32_t slot;
    PyObject *left = NULL;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "encipher(slot, source, target)");
        return NULL;
    }
    if (take_slot(args[0], &slot) < 0 || row_cell(args[1], &source) < 0)
        return NULL;
    if (row_cell(args[2], &target) == 0) {
        if (source.len != target.len)
            PyErr_SetString(PyExc_ValueError, "rows of different formats");
        else if (layer_encipher((LayerObject *)object, slot, (uint8_t *)source.buf + CELL_HEADER_LEN,
                                (uint8_t *)target.buf + CELL_HEADER_LEN, (size_t)source.len - CELL_HEADER_LEN) == 0)
            left = left_of(&target);
        PyBuffer_Release(&target);
    }
    PyBuffer_Release(&source);
    return left;
}

static PyObject *layer_py_decipher(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer cell;
    uint32_t slot;
    PyObject *left = NULL;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "decipher(slot, row)");
        return NULL;
    }
    if (take_slot(args[0], &slot) < 0 || row_cell(args[1], &cell) < 0)
        return NULL;
    if (layer_decipher((LayerObject *)object, slot, (uint8_t *)cell.buf + CELL_HEADER_LEN,
                       (size_t)cell.len - CELL_HEADER_LEN) == 0)
        left = left_of(&cell);
    PyBuffer_Release(&cell);
    return left;
}

static PyMethodDef layer_methods[] = {
    {"encipher", (PyCFunction)(void (*)(void))layer_py_encipher, METH_FASTCALL, NULL},
    {"decipher", (PyCFunction)(void (*)(void))layer_py_decipher, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject LayerType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "anonnet._native.Layer",
    .tp_basicsize = sizeof(LayerObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = layer_new,
    .tp_dealloc = layer_dealloc,
    .tp_methods = layer_methods,
};

/* -- Onion: a caller's layers of one direction, nearest hop first ------------------------------------- */

enum { MAX_HOPS = 64 };

typedef struct {
    PyObject_HEAD
    int hops;
    LayerObject *layers[MAX_HOPS];
    uint32_t offsets[MAX_HOPS];
} OnionObject;

static void onion_dealloc(PyObject *object)
{
    OnionObject *self = (OnionObject *)object;
    for (int i = 0; i < self->hops; i++)
        Py_DECREF(self->layers[i]);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *onion_add(PyObject *object, PyObject *args)
{
    OnionObject *self = (OnionObject *)object;
    PyObject *layer, *offset;
    if (!PyArg_ParseTuple(args, "O!O", &LayerType, &layer, &offset))
        return NULL;
    if (self->hops == MAX_HOPS) {
        PyErr_SetString(PyExc_ValueError, "too many hops");
        return NULL;
    }
    if (take_slot(offset, &self->offsets[self->hops]) < 0)
        return NULL;
    self->layers[self->hops++] = (LayerObject *)Py_NewRef(layer);
    Py_RETURN_NONE;
}

static PyObject *onion_wrap(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    OnionObject *self = (OnionObject *)object;
    Py_buffer cell;
    uint32_t slot;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "wrap(hops, slot, row)");
        return NULL;
    }
    long hops = PyLong_AsLong(args[0]);
    if ((hops == -1 && PyErr_Occurred()) || take_slot(args[1], &slot) < 0 || row_cell(args[2], &cell) < 0)
        return NULL;
    int state = 0;
    for (long i = hops < self->hops ? hops : self->hops; i-- > 0 && state == 0;)
        state = layer_decipher(self->layers[i], slot + self->offsets[i], (uint8_t *)cell.buf + CELL_HEADER_LEN,
                               (size_t)cell.len - CELL_HEADER_LEN);
    PyBuffer_Release(&cell);
    if (state < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *onion_peel(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    OnionObject *self = (OnionObject *)object;
    Py_buffer cell;
    uint32_t slot;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "peel(slot, row)");
        return NULL;
    }
    if (take_slot(args[0], &slot) < 0 || row_cell(args[1], &cell) < 0)
        return NULL;
    uint8_t *body = (uint8_t *)cell.buf + CELL_HEADER_LEN;
    int state = 0;
    long found = -1;
    for (int i = 0; i < self->hops && found < 0 && state == 0; i++) {
        state = layer_decipher(self->layers[i], slot + self->offsets[i], body, (size_t)cell.len - CELL_HEADER_LEN);
        if (state == 0 && recognised(body))
            found = i;
    }
    PyBuffer_Release(&cell);
    return state < 0 ? NULL : PyLong_FromLong(found);
}

static PyMethodDef onion_methods[] = {
    {"add", onion_add, METH_VARARGS, NULL},
    {"wrap", (PyCFunction)(void (*)(void))onion_wrap, METH_FASTCALL, NULL},
    {"peel", (PyCFunction)(void (*)(void))onion_peel, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject OnionType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "anonnet._native.Onion",
    .tp_basicsize = sizeof(OnionObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = onion_dealloc,
    .tp_methods = onion_methods,
};
