/* AES-256-GCM as links use it: the header is the nonce, there is nothing else to authenticate. */

#include "native.h"

EVP_CIPHER *aes_gcm;

int openssl_failed(void)
{
    if (!crew_worker() && !PyErr_Occurred())
        PyErr_SetString(PyExc_RuntimeError, "OpenSSL failed");
    return -1;
}

int aead_init(void)
{
    aes_gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    return aes_gcm ? 0 : openssl_failed();
}

int take_key(PyObject *object, const uint8_t **key)
{
    if (!PyBytes_Check(object) || PyBytes_GET_SIZE(object) != KEY_LEN) {
        PyErr_Format(PyExc_ValueError, "a key has %d bytes", KEY_LEN);
        return -1;
    }
    *key = (const uint8_t *)PyBytes_AS_STRING(object);
    return 0;
}

EVP_CIPHER_CTX *context_new(const EVP_CIPHER *cipher, const uint8_t *key, bool encrypt)
{
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    if (context == NULL || EVP_CipherInit_ex2(context, cipher, key, NULL, encrypt, NULL) != 1) {
        EVP_CIPHER_CTX_free(context);
        openssl_failed();
        return NULL;
    }
    return context;
}

const void *context_state(EVP_CIPHER_CTX *context)
{
    void *nonce = NULL; /* shown where it is kept */
    OSSL_PARAM params[] = {OSSL_PARAM_construct_octet_ptr(OSSL_CIPHER_PARAM_UPDATED_IV, &nonce, EVP_MAX_IV_LENGTH),
                           OSSL_PARAM_construct_end()};
    if (EVP_CIPHER_CTX_get_params(context, params) == 1)
        return nonce;
    ERR_clear_error();
    return NULL;
}

void context_fetch(const EVP_CIPHER_CTX *context, const void *state, size_t before, size_t len)
{
    fetch(context, CONTEXT_LEN);
    if (state != NULL)
        fetch((const char *)state - before, len);
}

void aead_fetch(const AeadObject *self)
{
    context_fetch(self->first, self->state, GCM_BEFORE, GCM_LEN);
}

int aead_seal(AeadObject *self, int who, const uint8_t *nonce, const uint8_t *cell, size_t len, uint8_t *sealed)
{
    EVP_CIPHER_CTX *context = self->contexts[who];
    int done = 0, rest = 0;
    if (EVP_EncryptInit_ex2(context, NULL, NULL, nonce, NULL) != 1 ||
        EVP_EncryptUpdate(context, sealed, &done, cell, (int)len) != 1 || done != (int)len ||
        EVP_EncryptFinal_ex(context, sealed + done, &rest) != 1 ||
        EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, TAG_LEN, sealed + len) != 1)
        return openssl_failed();
    return 0;
}

int aead_open(AeadObject *self, int who, const uint8_t *nonce, const uint8_t *sealed, size_t len, uint8_t *cell)
{
    EVP_CIPHER_CTX *context = self->contexts[who];
    int done = 0, rest = 0;
    size_t plain = len - TAG_LEN;
    if (EVP_DecryptInit_ex2(context, NULL, NULL, nonce, NULL) != 1 ||
        EVP_DecryptUpdate(context, cell, &done, sealed, (int)plain) != 1 || done != (int)plain ||
        EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, TAG_LEN, (void *)(uintptr_t)(sealed + plain)) != 1)
        return openssl_failed();
    if (EVP_DecryptFinal_ex(context, cell + done, &rest) != 1) {
        memset(cell, 0, plain); /* nobody may see what was not authenticated */
        return 1;
    }
    return 0;
}

static PyObject *aead_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"key", NULL};
    PyObject *object;
    const uint8_t *key;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O", names, &object) || take_key(object, &key) < 0)
        return NULL;
    AeadObject *self = (AeadObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    int threads = crew_size();
    self->contexts = PyMem_Calloc((size_t)threads, sizeof *self->contexts);
    if (self->contexts == NULL)
        PyErr_NoMemory();
    while (self->contexts != NULL && self->threads < threads) {
        EVP_CIPHER_CTX *context = context_new(aes_gcm, key, type == &SealerType);
        if (context == NULL)
            break;
        self->contexts[self->threads++] = context;
    }
    static const uint8_t nonce[HEADER_LEN]; /* without one, a context does not say where it is */
    if (self->threads < threads || EVP_CipherInit_ex2(self->contexts[0], NULL, NULL, nonce, -1, NULL) != 1) {
        Py_DECREF(self);
        return self->threads < threads ? NULL : (openssl_failed(), NULL);
    }
    self->first = self->contexts[0];
    self->state = context_state(self->first);
    return (PyObject *)self;
}

static void aead_dealloc(PyObject *object)
{
    AeadObject *self = (AeadObject *)object;
    while (self->threads > 0)
        EVP_CIPHER_CTX_free(self->contexts[--self->threads]);
    PyMem_Free(self->contexts);
    Py_TYPE(object)->tp_free(object);
}

/* (nonce, data, None, where to) -> bytes written, as `cryptography` has it. */
static PyObject *aead_call(PyObject *object, PyObject *args, PyObject *kwargs)
{
    AeadObject *self = (AeadObject *)object;
    bool sealing = Py_TYPE(object) == &SealerType;
    Py_buffer nonce, data, target;
    PyObject *none, *result = NULL;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "y*y*Ow*", &nonce, &data, &none, &target))
        return NULL;
    Py_ssize_t written = sealing ? data.len + TAG_LEN : data.len - TAG_LEN;
    if (nonce.len != HEADER_LEN || none != Py_None || written < 0 || written > INT32_MAX || target.len != written) {
        PyErr_SetString(PyExc_ValueError, "wrong lengths");
        goto release;
    }
    int state = sealing ? aead_seal(self, 0, nonce.buf, data.buf, (size_t)data.len, target.buf)
                        : aead_open(self, 0, nonce.buf, data.buf, (size_t)data.len, target.buf);
    if (state == 1)
        PyErr_SetNone(invalid_tag);
    if (state == 0)
        result = PyLong_FromSsize_t(written);
release:
    PyBuffer_Release(&nonce);
    PyBuffer_Release(&data);
    PyBuffer_Release(&target);
    return result;
}

PyTypeObject SealerType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "anonnet._native.Sealer",
    .tp_basicsize = sizeof(AeadObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = aead_new,
    .tp_dealloc = aead_dealloc,
    .tp_call = aead_call,
};

PyTypeObject OpenerType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "anonnet._native.Opener",
    .tp_basicsize = sizeof(AeadObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = aead_new,
    .tp_dealloc = aead_dealloc,
    .tp_call = aead_call,
};
