/* What is done to each packet at the ends: see proto/train.py and proto/rewrite.py. */

#include "native.h"

enum {
    TUN_MTU = 1500,
    SEGMENT_LEAST = 256,
    TCP = 6,
    UDP = 17,
    TCP_LEN = 20, /* without options */
    AT4 = 20,     /* of the TCP header */
    AT6 = 40,
    FIN = 0x01,
    PSH = 0x08,
    ACK = 0x10,
    DF = 0x40,
};

static uint32_t get16(const uint8_t *p)
{
    return (uint32_t)p[0] << 8 | p[1];
}

static void put16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 8), p[1] = (uint8_t)v;
}

/* The ones' complement sum of 16-bit words, modulo 65535. */
static uint32_t sum16(const uint8_t *p, size_t len)
{
    uint64_t sum = 0;
    for (; len >= 4; p += 4, len -= 4)
        sum += get32(p); /* 2^16 is 1 modulo 65535 */
    if (len >= 2)
        sum += get16(p), p += 2, len -= 2;
    if (len)
        sum += (uint32_t)p[0] << 8;
    return (uint32_t)(sum % 0xFFFF);
}

static bool right(const uint8_t *packet, size_t len, size_t at)
{
    uint32_t addresses = at == AT4 ? sum16(packet + 12, 8) : sum16(packet + 8, 32);
    return (addresses + TCP + (uint32_t)(len - at) + sum16(packet + at, len - at)) % 0xFFFF == 0;
}

/* Whether all is the same that must be, up to the options. */
static bool alike(const uint8_t *a, const uint8_t *b, size_t at)
{
    bool ip = at == AT4 ? memcmp(a, b, 2) == 0 && memcmp(a + 6, b + 6, 4) == 0 && memcmp(a + 12, b + 12, 8) == 0
                        : memcmp(a, b, 4) == 0 && memcmp(a + 6, b + 6, 34) == 0;
    const uint8_t *x = a + at, *y = b + at;
    return ip && memcmp(x, y, 4) == 0 && memcmp(x + 8, y + 8, 5) == 0 && memcmp(x + 14, y + 14, 2) == 0;
}

static bool may_join(const uint8_t *train, size_t size, const uint8_t *packet, size_t len, size_t limit, size_t *head_len,
                     uint32_t *segment_len)
{
    bool four = size > 0 && train[0] == 0x45;
    size_t at = four ? AT4 : AT6, least = size < len ? size : len;
    if (least < at + TCP_LEN || !alike(train, packet, at))
        return false;
    if (four ? train[6] != DF || train[7] != 0 || train[9] != TCP : train[0] >> 4 != 6 || train[6] != TCP)
        return false;
    const uint8_t *tcp = train + at, *next = packet + at;
    size_t head = at + (size_t)(tcp[12] >> 4) * 4;
    if (head < at + TCP_LEN || head >= least || size + len - head <= TUN_MTU || size + len - head > limit)
        return false;
    if (memcmp(tcp + TCP_LEN, next + TCP_LEN, head - at - TCP_LEN) != 0)
        return false;
    if ((tcp[13] | next[13]) & ~(ACK | PSH | FIN) || tcp[13] & FIN)
        return false;
    if (get32(tcp + 4) + (uint32_t)(size - head) != get32(next + 4))
        return false;
    uint32_t segment = size > TUN_MTU ? get16(tcp + 16) : (uint32_t)(size - head);
    uint32_t more = len > TUN_MTU ? get16(next + 16) : (uint32_t)(len - head);
    if (segment < SEGMENT_LEAST || (size - head) % segment != 0 || more > segment || (len > TUN_MTU && more != segment))
        return false;
    *head_len = head, *segment_len = segment;
    return (size > TUN_MTU || right(train, size, at)) && (len > TUN_MTU || right(packet, len, at));
}

/* complete(packet, start, offset): finish a checksum that holds the pseudo-header's sum */
PyObject *train_complete(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (count != 3 || !PyByteArray_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "complete(packet, start, offset)");
        return NULL;
    }
    Py_ssize_t start = PyLong_AsSsize_t(args[1]), offset = PyLong_AsSsize_t(args[2]), size = PyByteArray_GET_SIZE(args[0]);
    if ((start == -1 || offset == -1) && PyErr_Occurred())
        return NULL;
    if (start < 0 || offset < 0 || start > size || offset > size - start - 2) {
        PyErr_SetString(PyExc_ValueError, "no room for a checksum there");
        return NULL;
    }
    uint8_t *from = (uint8_t *)PyByteArray_AS_STRING(args[0]) + start;
    put16(from + offset, sum16(from, (size_t)(size - start)) ^ 0xFFFF);
    Py_RETURN_NONE;
}

/* join(train, packet, limit) -> whether the one now holds the other */
PyObject *train_join(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (count != 3 || !PyByteArray_Check(args[0]) || !PyByteArray_Check(args[1]) || args[0] == args[1]) {
        PyErr_SetString(PyExc_TypeError, "join(train, packet, limit)");
        return NULL;
    }
    Py_ssize_t limit = PyLong_AsSsize_t(args[2]);
    if (limit == -1 && PyErr_Occurred())
        return NULL;
    size_t size = (size_t)PyByteArray_GET_SIZE(args[0]), len = (size_t)PyByteArray_GET_SIZE(args[1]), head;
    uint32_t segment;
    const uint8_t *packet = (const uint8_t *)PyByteArray_AS_STRING(args[1]);
    if (limit < 0 || !may_join((const uint8_t *)PyByteArray_AS_STRING(args[0]), size, packet, len, (size_t)limit, &head,
                               &segment))
        Py_RETURN_FALSE;
    size_t whole = size + len - head;
    if (PyByteArray_Resize(args[0], (Py_ssize_t)whole) < 0)
        return NULL;
    uint8_t *train = (uint8_t *)PyByteArray_AS_STRING(args[0]);
    size_t at = train[0] >> 4 == 4 ? AT4 : AT6;
    memcpy(train + size, packet + head, len - head);
    train[at + 13] |= packet[at + 13];
    put16(train + at + 16, segment);
    if (at == AT4) {
        put16(train + 2, (uint32_t)whole);
        put16(train + 10, 0);
        put16(train + 10, sum16(train, AT4) ^ 0xFFFF);
    } else {
        put16(train + 4, (uint32_t)(whole - AT6));
    }
    Py_RETURN_TRUE;
}

/* A checksum for data whose sum has gained `delta`, as proto/rewrite.py has it. */
static void adjust(uint8_t *checksum, uint32_t delta)
{
    uint32_t total = (get16(checksum) ^ 0xFFFF) + delta;
    put16(checksum, ((total & 0xFFFF) + (total >> 16)) ^ 0xFFFF);
}

/* rewrite(packet, at, old, new, delta) -> whether it was changed. False says nothing: only whole packets and trains of TCP
 * and UDP without options or extensions are done here. `at`: where the address is. */
PyObject *train_rewrite(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (count != 5 || !PyByteArray_Check(args[0]) || !PyBytes_Check(args[2]) || !PyBytes_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "rewrite(packet, at, old, new, delta)");
        return NULL;
    }
    Py_ssize_t where = PyLong_AsSsize_t(args[1]), len = PyBytes_GET_SIZE(args[2]);
    unsigned long delta = PyLong_AsUnsignedLong(args[4]);
    if (PyErr_Occurred())
        return NULL;
    bool four = len == 4;
    if ((!four && len != 16) || PyBytes_GET_SIZE(args[3]) != len || delta > 0xFFFF || where < 0 ||
        where + len > (four ? AT4 : AT6)) {
        PyErr_SetString(PyExc_ValueError, "no such change");
        return NULL;
    }
    size_t size = (size_t)PyByteArray_GET_SIZE(args[0]), at = four ? AT4 : AT6;
    uint8_t *packet = (uint8_t *)PyByteArray_AS_STRING(args[0]);
    if (size < at + 8 || (four ? packet[0] != 0x45 : packet[0] >> 4 != 6) ||
        memcmp(packet + where, PyBytes_AS_STRING(args[2]), (size_t)len) != 0)
        Py_RETURN_FALSE;
    uint8_t protocol = four ? packet[9] : packet[6];
    size_t checksum = at + (protocol == TCP ? 16 : 6);
    if ((protocol != TCP && protocol != UDP) || checksum + 2 > size ||
        (four ? get16(packet + 2) != size || get16(packet + 6) & 0x1FFF : get16(packet + 4) + AT6 != size))
        Py_RETURN_FALSE;
    if (size <= TUN_MTU && (protocol == TCP || get16(packet + checksum) != 0)) {
        adjust(packet + checksum, (uint32_t)delta);
        if (protocol == UDP && get16(packet + checksum) == 0)
            put16(packet + checksum, 0xFFFF);
    }
    if (four)
        adjust(packet + 10, (uint32_t)delta);
    memcpy(packet + where, PyBytes_AS_STRING(args[3]), (size_t)len);
    Py_RETURN_TRUE;
}
