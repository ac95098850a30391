/* Taking in datagrams: see proto/intake.py. */

#include "native.h"

typedef struct {
    PyObject_HEAD
    PyObject *link;
    AeadObject *opener;
    PyObject *routes; /* the link's, once they were asked for */
    Py_ssize_t length;
    long long received, last_received;
    uint8_t name[NAME_LEN]; /* where the last datagram came from that was looked at for that */
    char confirms, named;
    Window window; /* the last: of its bits each datagram needs one */
} SessionObject;

static int session_clear(PyObject *object)
{
    SessionObject *self = (SessionObject *)object;
    Py_CLEAR(self->link);
    Py_CLEAR(self->opener);
    Py_CLEAR(self->routes);
    return 0;
}

static int session_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(((SessionObject *)object)->link);
    Py_VISIT(((SessionObject *)object)->routes);
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

static PyObject *session_forget_source(PyObject *object, PyObject *unused)
{
    (void)unused;
    ((SessionObject *)object)->named = 0;
    Py_RETURN_NONE;
}

static PyMethodDef session_methods[] = {
    {"forget_source", session_forget_source, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef session_getset[] = {{"missing", session_missing, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};
static PyMemberDef session_members[] = {
    {"link", T_OBJECT_EX, offsetof(SessionObject, link), READONLY, NULL},
    {"length", T_PYSSIZET, offsetof(SessionObject, length), READONLY, NULL},
    {"received", T_LONGLONG, offsetof(SessionObject, received), READONLY, NULL},
    {"last_received", T_LONGLONG, offsetof(SessionObject, last_received), READONLY, NULL},
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
    .tp_methods = session_methods,
    .tp_getset = session_getset,
    .tp_members = session_members,
};

/* -- Intake ----------------------------------------------------------------------------------------- */

enum { MAX_FORMATS = 4 };
typedef struct Batch Batch;

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
    Batch *batch; /* made when there is a crew */
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
    PyMem_Free(self->batch);
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

/* The session of those that begin so, a strong reference; NULL: none is known. */
typedef struct {
    SessionObject *session;
    uint32_t start;
} Known;

/* Those of the datagrams that come next, by index: with many links each session is far from the processor, behind two
 * pointers, and is fetched a step for each datagram that is taken in. */
enum { AHEAD = 3 };

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

/* -- a datagram, step by step ----------------------------------------------------------------------- */

/* A datagram that has a session. */
typedef struct {
    SessionObject *session; /* strong */
    const Plain *plain;
    const uint8_t *datagram;
    Py_ssize_t index;
    uint8_t *cell; /* where it is opened */
    int state;     /* of aead_open */
    bool opened;
} Arrival;

typedef struct {
    IntakeObject *self;
    PyObject *inbox, *checked; /* the link that was heard of last; borrowed, compared only */
    const uint8_t *names;      /* NULL: there are none */
    Known known[AHEAD + 1];    /* of datagram `index` at its remainder */
    long long now;
    bool together; /* cells that go on are left for `forward_all` */
} Burst;

static const Plain *plain_for(const IntakeObject *self, Py_ssize_t length)
{
    for (int i = 0; i < self->formats; i++)
        if (self->plains[i].length == length)
            return &self->plains[i];
    return NULL;
}

static Known *known_of(Burst *burst, Py_ssize_t index)
{
    return &burst->known[index % (AHEAD + 1)];
}

static void forget(Burst *burst)
{
    for (int i = 0; i <= AHEAD; i++)
        Py_CLEAR(burst->known[i].session);
}

static void fetch_session(const SessionObject *session, int step)
{
    if (step == AHEAD) {
        fetch(session, offsetof(SessionObject, window) + offsetof(Window, bits));
    } else if (session->opener != NULL && step == AHEAD - 1) {
        fetch(session->opener, sizeof *session->opener);
        __builtin_prefetch(&session->window.bits[(session->window.greatest + 1) % WINDOW / 64], 1);
        if (session->routes != NULL)
            __builtin_prefetch(session->routes);
    } else if (session->opener != NULL) {
        aead_fetch(session->opener);
    }
}

/* Find the session of a datagram; it is most often that of the one before. 0, or -1 with an exception. */
static int look_for(Burst *burst, Py_ssize_t index, uint32_t start)
{
    const Known *before = known_of(burst, index + AHEAD);
    Known *known = known_of(burst, index);
    PyObject *found = (PyObject *)before->session, *key = NULL;
    if (found == NULL || before->start != start) {
        if ((key = PyLong_FromUnsignedLong(start)) == NULL)
            return -1;
        found = PyDict_GetItemWithError(burst->self->sessions, key);
        Py_DECREF(key);
        if (found == NULL && PyErr_Occurred())
            return -1;
        if (found != NULL && Py_TYPE(found) != &ReceiveSessionType) {
            PyErr_SetString(PyExc_TypeError, "not a native session");
            return -1;
        }
    }
    known->start = start;
    Py_XINCREF(found);
    Py_XSETREF(known->session, (SessionObject *)found);
    return 0;
}

/* Bring sessions that come after that of a datagram into the caches. */
static void fetch_ahead(Burst *burst, Py_ssize_t index)
{
    for (int step = AHEAD; step > 0; step--) {
        const SessionObject *session = known_of(burst, index + step)->session;
        if (session != NULL && session != known_of(burst, index + step - 1)->session)
            fetch_session(session, step);
    }
}

/* Find what a datagram is of: 1, or 0 when that has been seen to, -1 with an exception. */
static int look_up(Burst *burst, Py_ssize_t index, const uint8_t *datagram, Py_ssize_t length, Arrival *arrival)
{
    IntakeObject *self = burst->self;
    const Plain *plain = plain_for(self, length);
    if (plain == NULL) {
        self->unknown++;
        return 0;
    }
    const Known *known = known_of(burst, index);
    SessionObject *session = known->session;
    if (session == NULL || session->length != length || session->opener == NULL)
        return stranger(self, burst->inbox, index, known->start);
    *arrival = (Arrival){session, plain, datagram, index, plain->cell.buf, 0, false};
    Py_INCREF(session);
    return 1;
}

static void open_cell(Arrival *arrival, int who)
{
    size_t len = (size_t)arrival->plain->length - HEADER_LEN;
    arrival->state = aead_open(arrival->session->opener, who, arrival->datagram, arrival->datagram + HEADER_LEN, len,
                               arrival->cell);
    arrival->opened = true;
}

/* The row in which Python sees the cell. */
static PyObject *shown(const Plain *plain, const uint8_t *cell)
{
    if (cell != plain->cell.buf)
        memcpy(plain->cell.buf, cell, (size_t)plain->cell.len);
    return plain->row;
}

/* The same dict for as long as there is the link. */
static PyObject *routes_of(SessionObject *session)
{
    if (session->routes == NULL) {
        session->routes = PyObject_GetAttrString(session->link, "routes");
        if (session->routes != NULL && !PyDict_Check(session->routes)) {
            Py_CLEAR(session->routes);
            PyErr_SetString(PyExc_TypeError, "routes are a dict");
        }
    }
    return session->routes;
}

static int forward_later(IntakeObject *self, PyObject *inlet, const Arrival *arrival, uint32_t slot);

/* Give an opened cell to its route. */
static int hand_on(Burst *burst, const Arrival *arrival, uint32_t route_id)
{
    const Plain *plain = arrival->plain;
    uint32_t slot = get32(arrival->cell + 4);
    size_t len = (size_t)plain->cell.len;
    PyObject *routes = routes_of(arrival->session), *key = NULL;
    if (routes == NULL || (key = PyLong_FromUnsignedLong(route_id)) == NULL)
        return -1;
    PyObject *receive = PyDict_GetItemWithError(routes, key);
    Py_DECREF(key);
    if (receive == NULL)
        return PyErr_Occurred() ? -1 : 0;
    Py_INCREF(receive);
    int state;
    if (Py_TYPE(receive) != &InletType)
        state = called(PyObject_CallFunction(receive, "kOL", (unsigned long)slot, shown(plain, arrival->cell), burst->now));
    else if (burst->together && inlet_forwards(receive, len))
        state = forward_later(burst->self, receive, arrival, slot);
    else
        state = inlet_receive(receive, slot, shown(plain, arrival->cell), arrival->cell, len, burst->now);
    Py_DECREF(receive);
    return state;
}

/* Whether a datagram came from elsewhere than the last that was asked about, for all one can tell. */
static bool moved(const Burst *burst, SessionObject *session, Py_ssize_t index)
{
    if (burst->names == NULL)
        return true;
    const uint8_t *name = burst->names + index * NAME_LEN;
    if (session->named && memcmp(session->name, name, NAME_LEN) == 0)
        return false;
    memcpy(session->name, name, NAME_LEN);
    session->named = 1;
    return true;
}

/* A datagram newer than all before: addresses, keys and the time of life are seen to once a burst. */
static int heard(Burst *burst, SessionObject *session, Py_ssize_t index)
{
    burst->checked = session->link;
    session->last_received = burst->now;
    if (!moved(burst, session, index) && !session->confirms)
        return 0;
    return called(PyObject_CallFunction(burst->self->heard, "OOOn", session->link, session, burst->inbox, index));
}

/* What becomes of a datagram once it has been opened. */
static int settle(Burst *burst, Arrival *arrival)
{
    SessionObject *session = arrival->session;
    uint64_t counter = get64(arrival->datagram + 4);
    if (arrival->state != 0)
        return arrival->state < 0 ? openssl_failed() : forged(session);
    if (!window_accept(&session->window, counter))
        return 0;
    session->received++;
    if (session->link != burst->checked && counter == session->window.greatest &&
        heard(burst, session, arrival->index) < 0)
        return -1;
    uint32_t route_id = get32(arrival->cell);
    if (route_id == ROUTE_NULL)
        return 0;
    if (route_id == ROUTE_CONTROL)
        return called(PyObject_CallFunction(burst->self->control, "OO", session->link,
                                            shown(arrival->plain, arrival->cell)));
    return hand_on(burst, arrival, route_id);
}

static int take_in(Burst *burst, Py_ssize_t index, const uint8_t *datagram, Py_ssize_t length)
{
    Arrival arrival;
    int state = look_up(burst, index, datagram, length, &arrival);
    if (state != 1)
        return state;
    open_cell(&arrival, 0);
    state = settle(burst, &arrival);
    Py_DECREF(arrival.session);
    return state;
}

/* -- a batch, shared by a crew ------------------------------------------------------------------------
 *
 *   look up all | open all: any thread, any datagram | settle all | forward: a thread for each inlet
 *
 * Cells of one inlet are forwarded in the order in which they came, by one thread. Only what Python is told of several
 * routes may come in another order than from one thread. */

enum { MOST = 128, OPENED_TOGETHER = 4, NOWHERE = -1 };

/* A cell that goes on, and the next one of the same inlet. */
typedef struct {
    const Arrival *arrival;
    uint32_t slot;
    int next;
} Passage;

/* Cells of one inlet. */
typedef struct {
    PyObject *inlet; /* strong */
    int first, last; /* `first`: the next to be forwarded */
    int state;       /* of inlet_forward; stops at what is not 0 */
} Run;

struct Batch {
    uint8_t cells[MOST][STRIDE];
    Arrival arrivals[MOST];
    int count;
    Passage passages[MOST];
    int passing;
    Run runs[MOST];
    int running;
};

static void open_item(void *context, size_t item, int who)
{
    Arrival *arrival = &((Batch *)context)->arrivals[item];
    if (!arrival->opened)
        open_cell(arrival, who);
}

static void forward_item(void *context, size_t item, int who)
{
    Batch *batch = context;
    Run *run = &batch->runs[item];
    (void)who;
    while (run->first != NOWHERE && run->state == 0) {
        const Passage *passage = &batch->passages[run->first];
        run->state = inlet_forward(run->inlet, passage->slot, passage->arrival->cell,
                                   (size_t)passage->arrival->plain->cell.len);
        if (run->state == 0)
            run->first = passage->next;
    }
}

static int forward_later(IntakeObject *self, PyObject *inlet, const Arrival *arrival, uint32_t slot)
{
    Batch *batch = self->batch;
    int *mark = inlet_mark(inlet), at = batch->passing++;
    batch->passages[at] = (Passage){arrival, slot, NOWHERE};
    if (*mark == 0) {
        batch->runs[batch->running] = (Run){Py_NewRef(inlet), at, at, 0};
        *mark = ++batch->running;
    } else {
        Run *run = &batch->runs[*mark - 1];
        batch->passages[run->last].next = at;
        run->last = at;
    }
    return 0;
}

/* The rest of a run, from a cell that was recognised on, is Python's. */
static int finish_run(Burst *burst, Run *run)
{
    const Batch *batch = burst->self->batch;
    int state = run->state;
    if (state < 0)
        return openssl_failed();
    if (run->first == NOWHERE)
        return 0;
    const Passage *passage = &batch->passages[run->first];
    state = inlet_recognised(run->inlet, passage->slot, burst->now);
    while (state == 0 && passage->next != NOWHERE) {
        passage = &batch->passages[passage->next];
        const Arrival *arrival = passage->arrival;
        state = inlet_receive(run->inlet, passage->slot, shown(arrival->plain, arrival->cell), arrival->cell,
                              (size_t)arrival->plain->cell.len, burst->now);
    }
    return state;
}

static void clear_arrivals(Batch *batch)
{
    while (batch->count > 0)
        Py_DECREF(batch->arrivals[--batch->count].session);
}

static int take_batch_in(Burst *burst, Batch *batch)
{
    int state = 0;
    crew_share(open_item, batch, (size_t)batch->count, OPENED_TOGETHER);
    for (int i = 0; i < batch->count && state == 0; i++)
        state = settle(burst, &batch->arrivals[i]);
    crew_share(forward_item, batch, (size_t)batch->running, 1);
    for (int i = 0; i < batch->running; i++) {
        *inlet_mark(batch->runs[i].inlet) = 0;
        if (state == 0)
            state = finish_run(burst, &batch->runs[i]);
        Py_DECREF(batch->runs[i].inlet);
    }
    batch->passing = batch->running = 0;
    clear_arrivals(batch);
    return state;
}

/* -- an inbox --------------------------------------------------------------------------------------- */

static int add_to_batch(Burst *burst, Batch *batch, Py_ssize_t index, const uint8_t *datagram, Py_ssize_t length)
{
    Arrival *arrival = &batch->arrivals[batch->count];
    int state = look_up(burst, index, datagram, length, arrival);
    if (state != 1)
        return state;
    arrival->cell = batch->cells[batch->count++];
    if (arrival->session->opener->threads < crew_size())
        open_cell(arrival, 0); /* a key from before there were so many */
    return batch->count == MOST ? take_batch_in(burst, batch) : 0;
}

static int take_all_in(Burst *burst, PyObject *lengths, const Py_buffer *memory, Py_ssize_t offset)
{
    Batch *batch = burst->together ? burst->self->batch : NULL;
    const uint8_t *first = (const uint8_t *)memory->buf + offset;
    Py_ssize_t rows = memory->len / STRIDE, known = 0;
    for (Py_ssize_t index = 0; index < PySequence_Fast_GET_SIZE(lengths); index++) {
        Py_ssize_t length = PyLong_AsSsize_t(PySequence_Fast_GET_ITEM(lengths, index));
        if (length == -1 && PyErr_Occurred())
            return -1;
        if (length > STRIDE - offset || index >= rows) {
            PyErr_SetString(PyExc_ValueError, "more than the inbox holds");
            return -1;
        }
        for (; known <= index + AHEAD && known < PySequence_Fast_GET_SIZE(lengths) && known < rows; known++)
            if (look_for(burst, known, get32(first + known * STRIDE)) < 0)
                return -1;
        fetch_ahead(burst, index);
        const uint8_t *datagram = first + index * STRIDE;
        if ((batch ? add_to_batch(burst, batch, index, datagram, length)
                   : take_in(burst, index, datagram, length)) < 0)
            return -1;
    }
    return batch && batch->count ? take_batch_in(burst, batch) : 0;
}

/* Whether the crew is to have a burst. */
static int share(IntakeObject *self, PyObject *lengths, bool *together)
{
    *together = crew_size() > 1 && PySequence_Fast_GET_SIZE(lengths) > OPENED_TOGETHER;
    if (!*together || self->batch != NULL)
        return 0;
    self->batch = PyMem_Calloc(1, sizeof *self->batch);
    if (self->batch == NULL)
        PyErr_NoMemory();
    return self->batch ? 0 : -1;
}

/* The names of sources, if the inbox has any; `view` is to be released if it has. */
static int names_of(Burst *burst, Py_ssize_t count, Py_buffer *view)
{
    PyObject *names = PyObject_GetAttr(burst->inbox, name_names);
    view->obj = NULL;
    int state = names == NULL ? -1 : names == Py_None ? 0 : PyObject_GetBuffer(names, view, PyBUF_SIMPLE);
    Py_XDECREF(names);
    if (state < 0 || view->obj == NULL)
        return state;
    if (view->len / NAME_LEN < count) {
        PyErr_SetString(PyExc_ValueError, "more than the inbox holds");
        PyBuffer_Release(view);
        return -1;
    }
    burst->names = view->buf;
    return 0;
}

static int take_inbox_in(Burst *burst, PyObject *lengths, Py_ssize_t offset)
{
    Py_buffer memory, names;
    if (share(burst->self, lengths, &burst->together) < 0 || object_memory(burst->inbox, &memory) < 0)
        return -1;
    int state = names_of(burst, PySequence_Fast_GET_SIZE(lengths), &names);
    if (state == 0) {
        state = take_all_in(burst, lengths, &memory, offset);
        if (state < 0 && burst->self->batch != NULL)
            clear_arrivals(burst->self->batch);
        PyBuffer_Release(&names);
    }
    PyBuffer_Release(&memory);
    return state;
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
    PyObject *number = PyObject_GetAttr(burst.inbox, name_offset);
    Py_ssize_t offset = number ? PyLong_AsSsize_t(number) : -1;
    Py_XDECREF(number);
    if (PyErr_Occurred())
        return NULL;
    if (offset < 0 || offset > STRIDE - HEADER_LEN) {
        PyErr_SetString(PyExc_ValueError, "no such offset");
        return NULL;
    }
    PyObject *given = PyObject_GetAttr(burst.inbox, name_lengths);
    PyObject *lengths = given ? PySequence_Fast(given, "lengths are a sequence") : NULL;
    Py_XDECREF(given);
    if (lengths == NULL)
        return NULL;
    int state = take_inbox_in(&burst, lengths, offset);
    forget(&burst);
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
