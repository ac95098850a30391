/* Packets into cells and back: see proto/segment.py. */

#include "native.h"

enum {
    LENGTH_LEN = 2,
    PAYLOAD_HEADER_LEN = 6,
    PARITY_HEAD_LEN = 2,
    NO_FIRST = 0xFFF,
    KIND_GROUPED = 3,
    MAX_PACKET = 0xFFFF,
    PAYLOAD_AT = CELL_HEADER_LEN + RECOGNISED_LEN,
};

static int content_of(long content_len)
{
    if (content_len > PARITY_HEAD_LEN + LENGTH_LEN && content_len <= STRIDE - PAYLOAD_AT - PAYLOAD_HEADER_LEN)
        return 0;
    PyErr_SetString(PyExc_ValueError, "no format has so much content");
    return -1;
}

/* -- Segmenter -------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *take;
    Py_buffer packet; /* being sent, if it has an `obj` */
    size_t at;        /* how much of it and its length has gone */
    size_t content_len;
    uint32_t sequence;
} SegmenterObject;

static int segmenter_clear(PyObject *object)
{
    SegmenterObject *self = (SegmenterObject *)object;
    Py_CLEAR(self->take);
    if (self->packet.obj != NULL)
        PyBuffer_Release(&self->packet);
    return 0;
}

static int segmenter_traverse(PyObject *object, visitproc visit, void *arg)
{
    SegmenterObject *self = (SegmenterObject *)object;
    Py_VISIT(self->take);
    return 0;
}

static void segmenter_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    segmenter_clear(object);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *segmenter_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"content_len", "take", NULL};
    long content_len;
    PyObject *take;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "lO", names, &content_len, &take) || content_of(content_len) < 0)
        return NULL;
    SegmenterObject *self = (SegmenterObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->take = Py_NewRef(take);
    self->content_len = (size_t)content_len;
    return (PyObject *)self;
}

/* Ask for the next packet, none being sent: 1 if there is one. */
static int next_packet(SegmenterObject *self)
{
    PyObject *take = Py_XNewRef(self->take), *packet = take ? PyObject_CallNoArgs(take) : Py_NewRef(Py_None);
    Py_XDECREF(take);
    if (packet == NULL || packet == Py_None) {
        Py_XDECREF(packet);
        return packet == NULL ? -1 : 0;
    }
    int state = -1;
    if (self->packet.obj == NULL)
        state = PyObject_GetBuffer(packet, &self->packet, PyBUF_SIMPLE);
    else
        PyErr_SetString(PyExc_RuntimeError, "filled by what it takes from");
    Py_DECREF(packet);
    if (state < 0)
        return -1;
    if (self->packet.len < 1 || self->packet.len > MAX_PACKET) {
        PyBuffer_Release(&self->packet);
        PyErr_SetString(PyExc_ValueError, "no packet has that length");
        return -1;
    }
    self->at = 0;
    return 1;
}

/* Copy what fits of the packet being sent, its length first. */
static size_t copy_some(SegmenterObject *self, uint8_t *target, size_t room)
{
    size_t used = 0, len = (size_t)self->packet.len;
    for (; self->at < LENGTH_LEN && used < room; self->at++)
        target[used++] = (uint8_t)(self->at == 0 ? len >> 8 : len);
    size_t rest = LENGTH_LEN + len - self->at, more = rest < room - used ? rest : room - used;
    memcpy(target + used, (const uint8_t *)self->packet.buf + self->at - LENGTH_LEN, more);
    self->at += more;
    if (more == rest)
        PyBuffer_Release(&self->packet);
    return used + more;
}

static void put_header(SegmenterObject *self, uint8_t *payload, long kind, size_t first)
{
    payload[0] = (uint8_t)((size_t)kind << 4 | first >> 8), payload[1] = (uint8_t)first;
    put32(payload + 2, self->sequence++);
}

static int segmenter_cell(SegmenterObject *self, PyObject *row, Py_buffer *cell)
{
    if (row_cell(row, cell) < 0)
        return -1;
    if ((size_t)cell->len == PAYLOAD_AT + PAYLOAD_HEADER_LEN + self->content_len)
        return 0;
    PyBuffer_Release(cell);
    PyErr_SetString(PyExc_ValueError, "a row of another format");
    return -1;
}

static int fill_content(SegmenterObject *self, uint8_t *payload, long kind)
{
    uint8_t *content = payload + PAYLOAD_HEADER_LEN;
    size_t used = 0, first = NO_FIRST, size = self->content_len - (kind == KIND_GROUPED ? PARITY_HEAD_LEN : 0);
    while (used < size) {
        if (self->packet.obj == NULL) {
            int found = size - used >= LENGTH_LEN ? next_packet(self) : 0;
            if (found < 0)
                return -1;
            if (!found)
                break;
        }
        if (self->at == 0 && first == NO_FIRST)
            first = used;
        used += copy_some(self, content + used, size - used);
    }
    memset(content + used, 0, self->content_len - used);
    put_header(self, payload, kind, first);
    return 0;
}

static PyObject *segmenter_fill(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    SegmenterObject *self = (SegmenterObject *)object;
    long kind = count == 2 ? PyLong_AsLong(args[1]) : 2;
    Py_buffer cell;
    if (count < 1 || count > 2 || (kind != 2 && kind != KIND_GROUPED)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "fill(row, kind=DATA)");
        return NULL;
    }
    if (self->packet.obj == NULL) {
        int found = next_packet(self);
        if (found <= 0)
            return found < 0 ? NULL : Py_NewRef(Py_False);
    }
    if (segmenter_cell(self, args[0], &cell) < 0)
        return NULL;
    int state = fill_content(self, (uint8_t *)cell.buf + PAYLOAD_AT, kind);
    PyBuffer_Release(&cell);
    return state < 0 ? NULL : Py_NewRef(Py_True);
}

static PyObject *segmenter_pad(PyObject *object, PyObject *row)
{
    SegmenterObject *self = (SegmenterObject *)object;
    Py_buffer cell;
    if (segmenter_cell(self, row, &cell) < 0)
        return NULL;
    uint8_t *payload = (uint8_t *)cell.buf + PAYLOAD_AT;
    memset(payload + PAYLOAD_HEADER_LEN, 0, self->content_len);
    put_header(self, payload, KIND_GROUPED, NO_FIRST);
    PyBuffer_Release(&cell);
    Py_RETURN_NONE;
}

static PyMethodDef segmenter_methods[] = {
    {"fill", (PyCFunction)(void (*)(void))segmenter_fill, METH_FASTCALL, NULL},
    {"pad", segmenter_pad, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject SegmenterType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "anonnet._native.Segmenter",
    .tp_basicsize = sizeof(SegmenterObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = segmenter_new,
    .tp_dealloc = segmenter_dealloc,
    .tp_traverse = segmenter_traverse,
    .tp_clear = segmenter_clear,
    .tp_methods = segmenter_methods,
};

/* -- Unpacker --------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *packet; /* bytearray: goes on in the next cell; or NULL */
    size_t have;      /* bytes of it */
    size_t content_len, max_packet;
    long long malformed;
} UnpackerObject;

static void unpacker_dealloc(PyObject *object)
{
    Py_CLEAR(((UnpackerObject *)object)->packet);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *unpacker_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"content_len", "max_packet", NULL};
    long content_len, max_packet;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "ll", names, &content_len, &max_packet) || content_of(content_len) < 0)
        return NULL;
    if (max_packet < 1 || max_packet > MAX_PACKET) {
        PyErr_SetString(PyExc_ValueError, "no packet has that length");
        return NULL;
    }
    UnpackerObject *self = (UnpackerObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->content_len = (size_t)content_len, self->max_packet = (size_t)max_packet;
    return (PyObject *)self;
}

static uint8_t *bytes_of(PyObject *packet)
{
    return (uint8_t *)PyByteArray_AS_STRING(packet);
}

/* The start of a cell is the rest of a packet, or contradicts that. */
static int go_on(UnpackerObject *self, const uint8_t *content, size_t room, size_t first, PyObject *packets)
{
    size_t missing = (size_t)PyByteArray_GET_SIZE(self->packet) - self->have;
    if (first != NO_FIRST && first != missing) {
        self->malformed++;
        Py_CLEAR(self->packet);
        return 0;
    }
    size_t some = missing < room ? missing : room;
    memcpy(bytes_of(self->packet) + self->have, content, some);
    self->have += some;
    if (some < missing)
        return 0;
    int state = PyList_Append(packets, self->packet);
    Py_CLEAR(self->packet);
    return state;
}

static int unpack(UnpackerObject *self, const uint8_t *payload, PyObject *packets)
{
    const uint8_t *content = payload + PAYLOAD_HEADER_LEN;
    size_t room = self->content_len - (payload[0] >> 4 == KIND_GROUPED ? PARITY_HEAD_LEN : 0);
    size_t at = ((size_t)payload[0] << 8 | payload[1]) & NO_FIRST;
    if (self->packet != NULL && go_on(self, content, room, at, packets) < 0)
        return -1;
    if (at == NO_FIRST)
        return 0;
    if (at + LENGTH_LEN > room || (content[at] == 0 && content[at + 1] == 0)) {
        self->malformed++;
        return 0;
    }
    while (at + LENGTH_LEN <= room) {
        size_t size = (size_t)content[at] << 8 | content[at + 1];
        if (size == 0)
            return 0;
        if (size > self->max_packet) {
            self->malformed++;
            return 0;
        }
        at += LENGTH_LEN;
        size_t some = size < room - at ? size : room - at;
        PyObject *packet = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)size);
        if (packet == NULL)
            return -1;
        memcpy(bytes_of(packet), content + at, some);
        if (some < size) {
            self->packet = packet, self->have = some;
            return 0;
        }
        int state = PyList_Append(packets, packet);
        Py_DECREF(packet);
        if (state < 0)
            return -1;
        at += size;
    }
    return 0;
}

static PyObject *unpacker_take(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    UnpackerObject *self = (UnpackerObject *)object;
    Py_buffer payload;
    if (count != 2 || !PyList_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "take(payload, packets)");
        return NULL;
    }
    if (PyObject_GetBuffer(args[0], &payload, PyBUF_SIMPLE) < 0)
        return NULL;
    int state = -1;
    if ((size_t)payload.len == PAYLOAD_HEADER_LEN + self->content_len)
        state = unpack(self, payload.buf, args[1]);
    else
        PyErr_SetString(PyExc_ValueError, "a payload of another format");
    PyBuffer_Release(&payload);
    return state < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *unpacker_drop(PyObject *object, PyObject *unused)
{
    (void)unused;
    Py_CLEAR(((UnpackerObject *)object)->packet);
    Py_RETURN_NONE;
}

static PyMethodDef unpacker_methods[] = {
    {"take", (PyCFunction)(void (*)(void))unpacker_take, METH_FASTCALL, NULL},
    {"drop", unpacker_drop, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef unpacker_members[] = {
    {"malformed", T_LONGLONG, offsetof(UnpackerObject, malformed), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject UnpackerType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "anonnet._native.Unpacker",
    .tp_basicsize = sizeof(UnpackerObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = unpacker_new,
    .tp_dealloc = unpacker_dealloc,
    .tp_methods = unpacker_methods,
    .tp_members = unpacker_members,
};
