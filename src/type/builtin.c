/* The types that the library ships. */
#include "type/type.h"

static const gort_field one_word = {0, PTR_SIZE};
static const gort_field two_words = {0, 2 * PTR_SIZE};

#define SHIP(id, T)                                                                                \
  static gort_type id##_type = {.string = #id,                                                     \
                                .size = sizeof(T),                                                 \
                                .align = alignof(T),                                               \
                                .kind = GORT_KIND_SCALAR,                                          \
                                .flags = GORT_FLAG_NAMED};                                         \
  const gort_type *const gort_type_##id = &id##_type

SHIP(bool, bool);
SHIP(int8, int8_t);
SHIP(int16, int16_t);
SHIP(int32, int32_t);
SHIP(int64, int64_t);
SHIP(uint8, uint8_t);
SHIP(uint16, uint16_t);
SHIP(uint32, uint32_t);
SHIP(uint64, uint64_t);
SHIP(float32, float);
SHIP(float64, double);
SHIP(uintptr, uintptr_t);

static gort_type unsafe_pointer_type = {.string = "unsafe_pointer",
                                        .size = sizeof(void *),
                                        .align = alignof(void *),
                                        .fields = &one_word,
                                        .nfields = 1,
                                        .ptrmask = 1,
                                        .kind = GORT_KIND_SCALAR,
                                        .flags = GORT_FLAG_NAMED};
const gort_type *const gort_type_unsafe_pointer = &unsafe_pointer_type;

static gort_type empty_interface_type = {.string = "any",
                                         .size = sizeof(gort_any),
                                         .align = alignof(gort_any),
                                         .fields = &two_words,
                                         .nfields = 1,
                                         .ptrmask = 3,
                                         .kind = GORT_KIND_INTERFACE,
                                         .flags = GORT_FLAG_NAMED};
const gort_type *const gort_type_empty_interface = &empty_interface_type;
