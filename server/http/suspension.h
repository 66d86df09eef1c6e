/*
 * Suspending and resuming the connection of an exchange. libmicrohttpd demands that each suspension
 * is ended exactly once and that none is left when it stops; all of that is kept here.
 */
#ifndef SERVER_HTTP_SUSPENSION_H
#define SERVER_HTTP_SUSPENSION_H

#include <stdbool.h>
#include <stdint.h>

#include "server/http/exchange.h"

/* How long a stream may be silent before a comment line keeps it open. */
#define SUSPENSION_KEEP_ALIVE_US ((int64_t)15000000)

/*
 * HTTP thread: suspends, and gives body and call to the preparation pool. The handler is called
 * again once the call is prepared. False: the exchange is over already.
 */
bool suspension_prepare(struct exchange *exchange);
/* Work of the preparation pool. */
void suspension_prepare_item(struct preparation_item *item);

/*
 * HTTP thread, inside a callback: suspends until the call has something new. False: it is not
 * suspended, look again.
 */
bool suspension_wait(struct exchange *exchange);

/* The client has left or the server stops: the connection is to be closed. */
bool suspension_over(struct exchange *exchange);

/* HTTP thread: from now on the response is a stream. */
void suspension_begin_stream(struct exchange *exchange);
/* HTTP thread: true when a comment line is due; it counts as sent then. */
bool suspension_take_comment(struct exchange *exchange);
void suspension_note_written(struct exchange *exchange);

/* For watcher_start. */
int64_t suspension_notice(void *owner, enum watcher_sign sign, int64_t now_us);

/* Any thread: ends the exchange because the server stops. */
void suspension_stop(struct exchange *exchange);

#endif
