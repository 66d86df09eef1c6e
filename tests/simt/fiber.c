#include "tests/simt/fiber.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

enum { STACK_BYTES = 256 << 10, STAGGER_BYTES = 17 * 64, STAGGER_STEPS = 60 };

struct fiber {
    void *top; /* where the switched-off stack ends: its saved registers */
    char *stack;
    struct fiber *(*work)(void);
    void *sanitizer;
};

static struct fiber *running;

/* Whoever called fiber_run. */
static struct {
    void *top;
    void *sanitizer;
    const void *stack; /* AddressSanitizer's: NULL until the first fiber has come from there */
    size_t stack_bytes;
} caller;

/* What AddressSanitizer hears of a switch: before it on the old stack, behind it on the new one. */
static void tell_leaving(void **sanitizer, const struct fiber *to)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(sanitizer, to != NULL ? to->stack : caller.stack,
                                   to != NULL ? STACK_BYTES : caller.stack_bytes);
#else
    (void)sanitizer;
    (void)to;
#endif
}

static void tell_arrived(void *sanitizer)
{
#if defined(__SANITIZE_ADDRESS__)
    const void *from;
    size_t size;
    __sanitizer_finish_switch_fiber(sanitizer, &from, &size);
    if (caller.stack == NULL) {
        caller.stack = from;
        caller.stack_bytes = size;
    }
#else
    (void)sanitizer;
#endif
}

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

void fiber_pass(struct fiber *to)
{
    struct fiber *self = running;
    running = to;
    tell_leaving(&self->sanitizer, to);
    fiber_switch(&self->top, to != NULL ? to->top : caller.top);
    tell_arrived(self->sanitizer);
}

/* The bottom frame of every fiber; it never returns. */
static void fiber_main(void)
{
    tell_arrived(NULL);
    for (;;)
        fiber_pass(running->work());
}

/*
 * The stacks end at different places of a page: the frames of a warp's threads, which run in turn,
 * would otherwise share the few places that the processor's cache has for one offset in a page.
 */
static void *stack_top(char *stack)
{
    static int fibers;
    return stack + STACK_BYTES - 64 - fibers++ % STAGGER_STEPS * STAGGER_BYTES;
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
    void **top = stack_top(stack);
    *--top = NULL;
    *--top = (void *)(uintptr_t)fiber_main;
    for (int i = 0; i < 6; i++)
        *--top = NULL;
    fiber->stack = stack;
    fiber->top = top;
    return fiber;
}

void fiber_give(struct fiber *fiber, struct fiber *(*work)(void))
{
    fiber->work = work;
}

void fiber_run(struct fiber *first)
{
    running = first;
    caller.stack = NULL;
    tell_leaving(&caller.sanitizer, first);
    fiber_switch(&caller.top, first->top);
    tell_arrived(caller.sanitizer);
}
