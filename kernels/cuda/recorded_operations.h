/* The operations of a step with their recordings, for the table of the CUDA backend. */
#ifndef KERNELS_CUDA_RECORDED_OPERATIONS_H
#define KERNELS_CUDA_RECORDED_OPERATIONS_H

struct backend_ops;
struct error;

/* Operations of a step that can be recorded: some 9 a layer. Steps with more are issued. */
enum { NOTED_MAX = 4096 };

struct noted_operations;
int noted_operations_create(struct noted_operations **out, struct error *err);
void noted_operations_destroy(struct noted_operations *noted); /* NULL is fine */

/* Sets step_begin, the operations, and step_end. */
void recorded_operations_set(struct backend_ops *ops);

#endif
