/* Between the parts of the emulation, and for its users: in which order the threads run. */
#ifndef TESTS_SIMT_EMULATION_H
#define TESTS_SIMT_EMULATION_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum simt_order { SIMT_ASCENDING, SIMT_DESCENDING, SIMT_SEEDED };

/* Of every launch from here on. SIMT_SEEDED: another order for every block, always the same ones.
 */
void simt_set_order(enum simt_order order);

/* 0 for one of "ascending", "descending", "seeded"; -1 for another name. */
int simt_order_by_name(enum simt_order *order, const char *name);

#ifdef __cplusplus
}
#endif

#endif
