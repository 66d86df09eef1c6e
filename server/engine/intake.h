/*
 * Where new requests wait for the engine's next tick: any thread pushes, the engine takes all with
 * one exchange. Lock-free; linked through request.next.
 */
#ifndef SERVER_ENGINE_INTAKE_H
#define SERVER_ENGINE_INTAKE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "server/engine/request.h"

struct intake {
    _Atomic(struct request *) newest;
};

void intake_init(struct intake *intake);
/* Any thread. False, and nothing pushed, once the intake is closed. */
bool intake_push(struct intake *intake, struct request *request);
bool intake_is_empty(const struct intake *intake);
/* Engine: all that was pushed, oldest first. */
struct request *intake_take(struct intake *intake);
/* Engine: takes what is left; every later push fails. */
struct request *intake_close(struct intake *intake);

#endif
