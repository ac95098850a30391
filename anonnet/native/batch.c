/* Datagrams that a crew seals together: `fill` chooses the cells of one link after the other, then has them all
 * sealed. Whatever that needs is kept until then. */

#include "native.h"

enum { TOGETHER = 4 }; /* datagrams that a thread takes at once */

static struct {
    Place *places;
    size_t count, room;
    PyObject **held; /* that have their cells, places and keys */
    size_t holds, hold_room;
    atomic_int failed;
} batch;

int place_seal(const Place *place, int who)
{
    put32(place->at, place->start);
    put64(place->at + 4, place->counter);
    return aead_seal(place->sealer, who, place->at, place->cell, place->len, place->at + HEADER_LEN);
}

/* Have room for one more in an array. */
static int make_room(void **array, size_t *room, size_t count, size_t size)
{
    if (count < *room)
        return 0;
    size_t wanted = *room ? 2 * *room : 64;
    void *more = PyMem_Realloc(*array, wanted * size);
    if (more == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    *array = more, *room = wanted;
    return 0;
}

int batch_hold(PyObject *object)
{
    if (batch.holds > 0 && batch.held[batch.holds - 1] == object)
        return 0;
    if (make_room((void **)&batch.held, &batch.hold_room, batch.holds, sizeof *batch.held) < 0)
        return -1;
    batch.held[batch.holds++] = Py_NewRef(object);
    return 0;
}

int batch_add(Place place, PyObject *keeper)
{
    if (make_room((void **)&batch.places, &batch.room, batch.count, sizeof *batch.places) < 0)
        return -1;
    if (keeper == NULL)
        place.cell = memcpy(place.at + HEADER_LEN, place.cell, place.len); /* it is sealed where it stands */
    else if (batch_hold(keeper) < 0)
        return -1;
    batch.places[batch.count++] = place;
    return 0;
}

static void seal_item(void *context, size_t item, int who)
{
    (void)context;
    if (place_seal(&batch.places[item], who) < 0)
        atomic_store(&batch.failed, 1);
}

void batch_drop(void)
{
    batch.count = 0;
    while (batch.holds > 0)
        Py_DECREF(batch.held[--batch.holds]);
}

int batch_seal(void)
{
    atomic_store(&batch.failed, 0);
    crew_share(seal_item, NULL, batch.count, TOGETHER);
    batch_drop();
    return atomic_load(&batch.failed) ? openssl_failed() : 0;
}
