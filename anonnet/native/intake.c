/* Taking in datagrams: see proto/intake.py. */

#include "native.h"

typedef struct {
    PyObject_HEAD
    PyObject *link;
    AeadObject *opener;
    Window window;
    Py_ssize_t length;
    long long received;
    char confirms;
} SessionObject;

static int session_clear(PyObject *object)
{
    SessionObject *self = (SessionObject *)object;
    Py_CLEAR(self->link);
    Py_CLEAR(self->opener);
    return 0;
}

static int session_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(((SessionObject *)object)->link);
    return 0;
}

static void session_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    session_clear(object);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *session_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"link", "length", "open_", "confirms", NULL};
    PyObject *link, *opener;
    Py_ssize_t length;
    int confirms;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OnO!p", names, &link, &length, &OpenerType, &opener, &confirms))
        return NULL;
    if (length <= HEADER_LEN + TAG_LEN + CELL_HEADER_LEN + RECOGNISED_LEN || length > STRIDE) {
        PyErr_SetString(PyExc_ValueError, "no datagram has that length");
        return NULL;
    }
    SessionObject *self = (SessionObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->link = Py_NewRef(link);
    self->opener = (AeadObject *)Py_NewRef(opener);
    self->length = length;
    self->confirms = (char)confirms;
    return (PyObject *)self;
}

static PyObject *session_missing(PyObject *object, void *closure)
{
    SessionObject *self = (SessionObject *)object;
    (void)closure;
    PyObject *greatest = window_greatest(&self->window);
    PyObject *less = PyLong_FromLongLong(1 - self->received), *missing = NULL;
    if (greatest != NULL && less != NULL)
        missing = PyNumber_Add(greatest, less);
    Py_XDECREF(greatest);
    Py_XDECREF(less);
    return missing;
}

static PyGetSetDef session_getset[] = {{"missing", session_missing, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};
static PyMemberDef session_members[] = {
    {"link", T_OBJECT_EX, offsetof(SessionObject, link), READONLY, NULL},
    {"length", T_PYSSIZET, offsetof(SessionObject, length), READONLY, NULL},
    {"received", T_LONGLONG, offsetof(SessionObject, received), READONLY, NULL},
    {"confirms", T_BOOL, offsetof(SessionObject, confirms), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject ReceiveSessionType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "anonnet._native.ReceiveSession",
    .tp_basicsize = sizeof(SessionObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = session_new,
    .tp_dealloc = session_dealloc,
    .tp_traverse = session_traverse,
    .tp_clear = session_clear,
    .tp_getset = session_getset,
    .tp_members = session_members,
};

/* -- Intake ----------------------------------------------------------------------------------------- */

enum { MAX_FORMATS = 4 };

typedef struct {
    Py_ssize_t length; /* of a datagram */
    PyObject *row;     /* where its cell is opened */
    Py_buffer cell;
} Plain;

typedef struct {
    PyObject_HEAD
    PyObject *sessions, *heard, *control, *handshake;
    Plain plains[MAX_FORMATS];
    int formats;
    long long unknown;
} IntakeObject;

static int intake_clear(PyObject *object)
{
    IntakeObject *self = (IntakeObject *)object;
    Py_CLEAR(self->sessions);
    Py_CLEAR(self->heard);
    Py_CLEAR(self->control);
    Py_CLEAR(self->handshake);
    return 0;
}

static int intake_traverse(PyObject *object, visitproc visit, void *arg)
{
    IntakeObject *self = (IntakeObject *)object;
    Py_VISIT(self->sessions);
    Py_VISIT(self->heard);
    Py_VISIT(self->control);
    Py_VISIT(self->handshake);
    return 0;
}

static void intake_dealloc(PyObject *object)
{
    IntakeObject *self = (IntakeObject *)object;
    PyObject_GC_UnTrack(object);
    intake_clear(object);
    for (int i = 0; i < self->formats; i++) {
        PyBuffer_Release(&self->plains[i].cell);
        Py_DECREF(self->plains[i].row);
    }
    Py_TYPE(object)->tp_free(object);
}

static int add_format(IntakeObject *self, PyObject *length, PyObject *row)
{
    if (self->formats == MAX_FORMATS) {
        PyErr_SetString(PyExc_ValueError, "too many formats");
        return -1;
    }
    Plain *plain = &self->plains[self->formats];
    plain->length = PyLong_AsSsize_t(length);
    if ((plain->length == -1 && PyErr_Occurred()) || row_cell(row, &plain->cell) < 0)
        return -1;
    plain->row = Py_NewRef(row);
    self->formats++;
    if (plain->cell.len != plain->length - HEADER_LEN - TAG_LEN) {
        PyErr_SetString(PyExc_ValueError, "a row of another format");
        return -1;
    }
    return 0;
}

static PyObject *intake_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"plain", "heard", "control", "handshake", NULL};
    PyObject *plain, *heard, *control, *handshake, *length, *row;
    Py_ssize_t at = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!OOO", names, &PyDict_Type, &plain, &heard, &control, &handshake))
        return NULL;
    IntakeObject *self = (IntakeObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->sessions = PyDict_New();
    self->heard = Py_NewRef(heard), self->control = Py_NewRef(control), self->handshake = Py_NewRef(handshake);
    bool sound = self->sessions != NULL;
    while (sound && PyDict_Next(plain, &at, &length, &row))
        sound = add_format(self, length, row) == 0;
    if (!sound) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

/* What the last datagram was of: most of a burst are of one session. Strong references. */
typedef struct {
    SessionObject *session;
    uint32_t start;
    PyObject *routes; /* of its link; NULL: not looked up */
} Current;

static void forget(Current *current)
{
    Py_CLEAR(current->session);
    Py_CLEAR(current->routes);
}

/* Find the session of a datagram; NULL if there is none, or with an exception. */
static SessionObject *find(IntakeObject *self, Current *current, uint32_t start)
{
    if (current->session != NULL && current->start == start)
        return current->session;
    forget(current);
    PyObject *key = PyLong_FromUnsignedLong(start);
    if (key == NULL)
        return NULL;
    PyObject *found = PyDict_GetItemWithError(self->sessions, key);
    Py_DECREF(key);
    if (found == NULL)
        return NULL;
    if (Py_TYPE(found) != &ReceiveSessionType) {
        PyErr_SetString(PyExc_TypeError, "not a native session");
        return NULL;
    }
    current->session = (SessionObject *)Py_NewRef(found);
    current->start = start;
    return current->session;
}

static int called(PyObject *result)
{
    Py_XDECREF(result);
    return result ? 0 : -1;
}

static int stranger(IntakeObject *self, PyObject *inbox, Py_ssize_t index, uint32_t start)
{
    uint32_t type = start >> 24;
    if (type < TYPE_FIRST_HANDSHAKE || type > TYPE_LAST_HANDSHAKE) {
        self->unknown++;
        return 0;
    }
    return called(PyObject_CallFunction(self->handshake, "On", inbox, index));
}

static int forged(SessionObject *session)
{
    PyObject *count = PyObject_GetAttrString(session->link, "forged"), *one = PyLong_FromLong(1), *more = NULL;
    if (count != NULL && one != NULL)
        more = PyNumber_Add(count, one);
    int state = more ? PyObject_SetAttrString(session->link, "forged", more) : -1;
    Py_XDECREF(count);
    Py_XDECREF(one);
    Py_XDECREF(more);
    return state;
}

/* Give an opened cell to its route. */
static int hand_on(Current *current, const Plain *plain, uint32_t route_id, long long now)
{
    const uint8_t *cell = plain->cell.buf;
    uint32_t slot = get32(cell + 4);
    if (current->routes == NULL) {
        current->routes = PyObject_GetAttrString(current->session->link, "routes");
        if (current->routes == NULL)
            return -1;
        if (!PyDict_Check(current->routes)) {
            PyErr_SetString(PyExc_TypeError, "routes are a dict");
            return -1;
        }
    }
    PyObject *key = PyLong_FromUnsignedLong(route_id);
    if (key == NULL)
        return -1;
    PyObject *receive = PyDict_GetItemWithError(current->routes, key);
    Py_DECREF(key);
    if (receive == NULL)
        return PyErr_Occurred() ? -1 : 0;
    Py_INCREF(receive);
    int state;
    if (Py_TYPE(receive) == &InletType)
        state = inlet_receive(receive, slot, plain->row, cell, (size_t)plain->cell.len, now);
    else
        state = called(PyObject_CallFunction(receive, "kOL", (unsigned long)slot, plain->row, now));
    Py_DECREF(receive);
    return state;
}

static const Plain *plain_for(const IntakeObject *self, Py_ssize_t length)
{
    for (int i = 0; i < self->formats; i++)
        if (self->plains[i].length == length)
            return &self->plains[i];
    return NULL;
}

typedef struct {
    IntakeObject *self;
    PyObject *inbox, *checked; /* the link that was heard of last; borrowed, compared only */
    Current current;
    long long now;
} Burst;

static int take_in(Burst *burst, Py_ssize_t index, const uint8_t *datagram, Py_ssize_t length)
{
    IntakeObject *self = burst->self;
    const Plain *plain = plain_for(self, length);
    if (plain == NULL) {
        self->unknown++;
        return 0;
    }
    uint32_t start = get32(datagram);
    uint64_t counter = get64(datagram + 4);
    SessionObject *session = find(self, &burst->current, start);
    if (session == NULL && PyErr_Occurred())
        return -1;
    if (session == NULL || session->length != length || session->opener == NULL)
        return stranger(self, burst->inbox, index, start);
    int state = aead_open(session->opener, datagram, datagram + HEADER_LEN, (size_t)length - HEADER_LEN, plain->cell.buf);
    if (state != 0)
        return state < 0 ? -1 : forged(session);
    if (!window_accept(&session->window, counter))
        return 0;
    session->received++;
    if (session->link != burst->checked && counter == session->window.greatest) {
        burst->checked = session->link;
        if (called(PyObject_CallFunction(self->heard, "OOOn", session->link, session, burst->inbox, index)) < 0)
            return -1;
    }
    uint32_t route_id = get32(plain->cell.buf);
    if (route_id == ROUTE_NULL)
        return 0;
    if (route_id == ROUTE_CONTROL)
        return called(PyObject_CallFunction(self->control, "OO", session->link, plain->row));
    return hand_on(&burst->current, plain, route_id, burst->now);
}

static int take_all_in(Burst *burst, PyObject *lengths, const Py_buffer *memory, Py_ssize_t offset)
{
    for (Py_ssize_t index = 0; index < PySequence_Fast_GET_SIZE(lengths); index++) {
        Py_ssize_t length = PyLong_AsSsize_t(PySequence_Fast_GET_ITEM(lengths, index));
        if (length == -1 && PyErr_Occurred())
            return -1;
        Py_ssize_t at = index * STRIDE + offset;
        if (length > STRIDE - offset || at + STRIDE - offset > memory->len) {
            PyErr_SetString(PyExc_ValueError, "more than the inbox holds");
            return -1;
        }
        if (take_in(burst, index, (const uint8_t *)memory->buf + at, length) < 0)
            return -1;
    }
    return 0;
}

static PyObject *intake_receive(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "receive(inbox, now)");
        return NULL;
    }
    Burst burst = {.self = (IntakeObject *)object, .inbox = args[0], .now = PyLong_AsLongLong(args[1])};
    if (burst.now == -1 && PyErr_Occurred())
        return NULL;
    PyObject *number = PyObject_GetAttrString(burst.inbox, "offset");
    Py_ssize_t offset = number ? PyLong_AsSsize_t(number) : -1;
    Py_XDECREF(number);
    if (PyErr_Occurred())
        return NULL;
    if (offset < 0 || offset > STRIDE) {
        PyErr_SetString(PyExc_ValueError, "no such offset");
        return NULL;
    }
    PyObject *given = PyObject_GetAttrString(burst.inbox, "lengths");
    PyObject *lengths = given ? PySequence_Fast(given, "lengths are a sequence") : NULL;
    Py_XDECREF(given);
    Py_buffer memory;
    if (lengths == NULL)
        return NULL;
    int state = object_buffer(burst.inbox, "memory", &memory);
    if (state == 0) {
        state = take_all_in(&burst, lengths, &memory, offset);
        PyBuffer_Release(&memory);
    }
    forget(&burst.current);
    Py_DECREF(lengths);
    if (state < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef intake_methods[] = {
    {"receive", (PyCFunction)(void (*)(void))intake_receive, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
static PyMemberDef intake_members[] = {
    {"sessions", T_OBJECT_EX, offsetof(IntakeObject, sessions), READONLY, NULL},
    {"unknown", T_LONGLONG, offsetof(IntakeObject, unknown), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject IntakeType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "anonnet._native.Intake",
    .tp_basicsize = sizeof(IntakeObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = intake_new,
    .tp_dealloc = intake_dealloc,
    .tp_traverse = intake_traverse,
    .tp_clear = intake_clear,
    .tp_methods = intake_methods,
    .tp_members = intake_members,
};
