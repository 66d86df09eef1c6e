#include "tests/simt/fiber.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define SWITCH_BEGIN(save, bottom, size) __sanitizer_start_switch_fiber(save, bottom, size)
#define SWITCH_END(save, bottom, size)   __sanitizer_finish_switch_fiber(save, bottom, size)
#else
#define SWITCH_BEGIN(save, bottom, size) ((void)(save), (void)(bottom), (void)(size))
#define SWITCH_END(save, bottom, size)   ((void)(save), (void)(bottom), (void)(size))
#endif

enum { STACK_BYTES = 256 << 10 };

struct fiber {
    void *top; /* where the switched-off stack ends: its saved registers */
    char *stack;
    void (*work)(void *context);
    void *context;
    void *sanitizer;
    bool returned;
};

/* The one that runs, and the stack of its caller. */
static struct fiber *running;
static void *caller_top, *caller_sanitizer;
static const void *caller_stack;
static size_t caller_stack_bytes;

/*
 * Saves what a function of the x86-64 System V ABI must preserve, leaves the stack's end in *from
 * and goes on where `to` was left. The emulation changes no floating-point modes.
 */
void fiber_switch(void **from, void *to);
__asm__(".text\n"
        ".globl fiber_switch\n"
        ".hidden fiber_switch\n"
        ".type fiber_switch, @function\n"
        "fiber_switch:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size fiber_switch, . - fiber_switch\n");

void fiber_wait(void)
{
    struct fiber *self = running;
    SWITCH_BEGIN(&self->sanitizer, caller_stack, caller_stack_bytes);
    fiber_switch(&self->top, caller_top);
    SWITCH_END(self->sanitizer, &caller_stack, &caller_stack_bytes);
}

/* The bottom frame of every fiber; it never returns. */
static void fiber_main(void)
{
    SWITCH_END(NULL, &caller_stack, &caller_stack_bytes);
    for (;;) {
        struct fiber *self = running;
        self->work(self->context);
        self->returned = true;
        fiber_wait();
    }
}

struct fiber *fiber_create(void)
{
    struct fiber *fiber = calloc(1, sizeof *fiber);
    char *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fiber == NULL || stack == MAP_FAILED) {
        fprintf(stderr, "simt: no memory for the stack of a thread\n");
        abort();
    }
    /* As if fiber_main had been called: its return address at a multiple of 16, less 8. */
    void **top = (void **)(stack + STACK_BYTES - 64);
    *--top = NULL;
    *--top = (void *)(uintptr_t)fiber_main;
    for (int i = 0; i < 6; i++)
        *--top = NULL;
    fiber->stack = stack;
    fiber->top = top;
    fiber->returned = true;
    return fiber;
}

void fiber_give(struct fiber *fiber, void (*work)(void *context), void *context)
{
    fiber->work = work;
    fiber->context = context;
    fiber->returned = false;
}

bool fiber_run(struct fiber *fiber)
{
    running = fiber;
    SWITCH_BEGIN(&caller_sanitizer, fiber->stack, STACK_BYTES);
    fiber_switch(&caller_top, fiber->top);
    SWITCH_END(caller_sanitizer, NULL, NULL);
    running = NULL;
    return fiber->returned;
}
