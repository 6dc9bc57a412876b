/* Type descriptors: what the collector needs to trace an object precisely, and what
 * gort_set_finalizer_any needs to check one value against another.
 *
 * Descriptors live for good: they are made at file scope by GORT_TYPE, or by the constructors
 * below, at any time and from any thread (attached or not). */
#ifndef GORT_TYPE_H
#define GORT_TYPE_H

#include "gort/base.h"

GORT_BEGIN_DECLS

typedef struct gort_type gort_type;
typedef struct gort_itab gort_itab;

/* Any value: its type, and a pointer to it (for a pointer type: the pointer itself). */
typedef struct {
  const gort_type *type;
  void *data;
} gort_any;

/* A value as an interface with methods. */
typedef struct {
  const gort_itab *tab;
  void *data;
} gort_iface;

/* A method: `type` is its function type without the receiver; `fn` takes the receiver's data
 * pointer first. In an interface `fn` is not used. */
typedef struct {
  const char *name;
  const gort_type *type;
  void (*fn)(void);
} gort_method;

/* Copies of the name and the offsets are made; offsets are those of words that hold pointers,
 * in bytes, multiples of 8. `scalar`, `struct`, `named` and `interface` make a new type each
 * time; `ptr` and `func` of the same parts give the same pointer each time, so that types
 * compare with ==. An align that is no power of two, a size that is no multiple of it, or an
 * offset outside the type throws. */
GORT_API const gort_type *gort_type_scalar(const char *name, size_t size, size_t align);
GORT_API const gort_type *gort_type_struct(const char *name, size_t size, size_t align,
                                           const size_t *pointer_offsets, size_t n);
GORT_API const gort_type *gort_type_ptr(const gort_type *elem);
/* A distinct type with the layout and kind of `underlying`, and with its own methods (a named
 * interface keeps its methods). */
GORT_API const gort_type *gort_type_named(const char *name, const gort_type *underlying);
GORT_API const gort_type *gort_type_func(const gort_type *const *in, size_t nin,
                                         const gort_type *const *out, size_t nout, bool variadic);
GORT_API const gort_type *gort_type_interface(const char *name, const gort_method *methods,
                                              size_t n);

/* Adds methods to a type; throws once the type has been converted, asked about or used in a
 * finalizer, and on a name that is there already. */
GORT_API void gort_type_add_methods(const gort_type *t, const gort_method *methods, size_t n);

/* The name; `*T` for a pointer; `func(*T, int) int` for a function. Lives as the type does. */
GORT_API const char *gort_type_string(const gort_type *t);
/* Size of a value of the type, in bytes. */
GORT_API size_t gort_type_size(const gort_type *t);
/* Whether t has all methods of the interface type `iface` (same name, same type). */
GORT_API bool gort_type_implements(const gort_type *t, const gort_type *iface);

/* Go's assertE2I: the value as the interface with methods `iface`. Throws when the value's
 * type is NULL or lacks a method. */
GORT_API gort_iface gort_convert(gort_any value, const gort_type *iface);
/* The method's fn, to be cast to its type with the receiver (v.data) first; NULL when the
 * interface has no method of that name. */
GORT_API void (*gort_iface_method(gort_iface v, const char *name))(void);

/* The types that the library ships; their strings are `bool`, `int8` and so on, and `any`.
 * _unsafe_pointer is not a pointer type, as in Go. */
GORT_API extern const gort_type *const gort_type_bool;
GORT_API extern const gort_type *const gort_type_int8;
GORT_API extern const gort_type *const gort_type_int16;
GORT_API extern const gort_type *const gort_type_int32;
GORT_API extern const gort_type *const gort_type_int64;
GORT_API extern const gort_type *const gort_type_uint8;
GORT_API extern const gort_type *const gort_type_uint16;
GORT_API extern const gort_type *const gort_type_uint32;
GORT_API extern const gort_type *const gort_type_uint64;
GORT_API extern const gort_type *const gort_type_float32;
GORT_API extern const gort_type *const gort_type_float64;
GORT_API extern const gort_type *const gort_type_uintptr;
GORT_API extern const gort_type *const gort_type_unsafe_pointer;
GORT_API extern const gort_type *const gort_type_empty_interface;

/* GORT_TYPE(id, T, fields...) defines, at file scope, a static descriptor `id` of T, used as
 * `&id`; the pointer fields follow (at most 64; `a.b` and `a[2]` too). A field that is an
 * array or a structure counts with every word of it. GORT_TYPE_NOSCAN(id, T): a type without
 * pointers. The string of the type is T as written.
 *
 * What the structures hold is for the macros and the library alone. */
typedef struct {
  size_t offset, size; /* in bytes */
} gort_field;

struct gort_type {
  const char *string;
  size_t size, align;
  const gort_field *fields; /* the words that hold pointers, as ranges */
  size_t nfields;
  uint64_t ptrmask; /* one bit for each of the first 64 words: holds a pointer */
  void *ext;        /* what the library adds later */
  uint8_t kind, flags;
};

/* Applies M(T, field) to each of 1 to 64 fields. */
#define GORT_PP_CAT_(a, b) a##b
#define GORT_PP_CAT(a, b) GORT_PP_CAT_(a, b)
#define GORT_PP_65TH(a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16, a17,   \
                     a18, a19, a20, a21, a22, a23, a24, a25, a26, a27, a28, a29, a30, a31, a32,    \
                     a33, a34, a35, a36, a37, a38, a39, a40, a41, a42, a43, a44, a45, a46, a47,    \
                     a48, a49, a50, a51, a52, a53, a54, a55, a56, a57, a58, a59, a60, a61, a62,    \
                     a63, a64, n, ...)                                                             \
  n
#define GORT_PP_COUNT(...)                                                                         \
  GORT_PP_65TH(__VA_ARGS__, 64, 63, 62, 61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 51, 50, 49, 48,    \
               47, 46, 45, 44, 43, 42, 41, 40, 39, 38, 37, 36, 35, 34, 33, 32, 31, 30, 29, 28, 27, \
               26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5,  \
               4, 3, 2, 1, )
#define GORT_PP_1(M, T, f) M(T, f)
#define GORT_PP_2(M, T, f, ...) M(T, f) GORT_PP_1(M, T, __VA_ARGS__)
#define GORT_PP_3(M, T, f, ...) M(T, f) GORT_PP_2(M, T, __VA_ARGS__)
#define GORT_PP_4(M, T, f, ...) M(T, f) GORT_PP_3(M, T, __VA_ARGS__)
#define GORT_PP_5(M, T, f, ...) M(T, f) GORT_PP_4(M, T, __VA_ARGS__)
#define GORT_PP_6(M, T, f, ...) M(T, f) GORT_PP_5(M, T, __VA_ARGS__)
#define GORT_PP_7(M, T, f, ...) M(T, f) GORT_PP_6(M, T, __VA_ARGS__)
#define GORT_PP_8(M, T, f, ...) M(T, f) GORT_PP_7(M, T, __VA_ARGS__)
#define GORT_PP_9(M, T, f, ...) M(T, f) GORT_PP_8(M, T, __VA_ARGS__)
#define GORT_PP_10(M, T, f, ...) M(T, f) GORT_PP_9(M, T, __VA_ARGS__)
#define GORT_PP_11(M, T, f, ...) M(T, f) GORT_PP_10(M, T, __VA_ARGS__)
#define GORT_PP_12(M, T, f, ...) M(T, f) GORT_PP_11(M, T, __VA_ARGS__)
#define GORT_PP_13(M, T, f, ...) M(T, f) GORT_PP_12(M, T, __VA_ARGS__)
#define GORT_PP_14(M, T, f, ...) M(T, f) GORT_PP_13(M, T, __VA_ARGS__)
#define GORT_PP_15(M, T, f, ...) M(T, f) GORT_PP_14(M, T, __VA_ARGS__)
#define GORT_PP_16(M, T, f, ...) M(T, f) GORT_PP_15(M, T, __VA_ARGS__)
#define GORT_PP_17(M, T, f, ...) M(T, f) GORT_PP_16(M, T, __VA_ARGS__)
#define GORT_PP_18(M, T, f, ...) M(T, f) GORT_PP_17(M, T, __VA_ARGS__)
#define GORT_PP_19(M, T, f, ...) M(T, f) GORT_PP_18(M, T, __VA_ARGS__)
#define GORT_PP_20(M, T, f, ...) M(T, f) GORT_PP_19(M, T, __VA_ARGS__)
#define GORT_PP_21(M, T, f, ...) M(T, f) GORT_PP_20(M, T, __VA_ARGS__)
#define GORT_PP_22(M, T, f, ...) M(T, f) GORT_PP_21(M, T, __VA_ARGS__)
#define GORT_PP_23(M, T, f, ...) M(T, f) GORT_PP_22(M, T, __VA_ARGS__)
#define GORT_PP_24(M, T, f, ...) M(T, f) GORT_PP_23(M, T, __VA_ARGS__)
#define GORT_PP_25(M, T, f, ...) M(T, f) GORT_PP_24(M, T, __VA_ARGS__)
#define GORT_PP_26(M, T, f, ...) M(T, f) GORT_PP_25(M, T, __VA_ARGS__)
#define GORT_PP_27(M, T, f, ...) M(T, f) GORT_PP_26(M, T, __VA_ARGS__)
#define GORT_PP_28(M, T, f, ...) M(T, f) GORT_PP_27(M, T, __VA_ARGS__)
#define GORT_PP_29(M, T, f, ...) M(T, f) GORT_PP_28(M, T, __VA_ARGS__)
#define GORT_PP_30(M, T, f, ...) M(T, f) GORT_PP_29(M, T, __VA_ARGS__)
#define GORT_PP_31(M, T, f, ...) M(T, f) GORT_PP_30(M, T, __VA_ARGS__)
#define GORT_PP_32(M, T, f, ...) M(T, f) GORT_PP_31(M, T, __VA_ARGS__)
#define GORT_PP_33(M, T, f, ...) M(T, f) GORT_PP_32(M, T, __VA_ARGS__)
#define GORT_PP_34(M, T, f, ...) M(T, f) GORT_PP_33(M, T, __VA_ARGS__)
#define GORT_PP_35(M, T, f, ...) M(T, f) GORT_PP_34(M, T, __VA_ARGS__)
#define GORT_PP_36(M, T, f, ...) M(T, f) GORT_PP_35(M, T, __VA_ARGS__)
#define GORT_PP_37(M, T, f, ...) M(T, f) GORT_PP_36(M, T, __VA_ARGS__)
#define GORT_PP_38(M, T, f, ...) M(T, f) GORT_PP_37(M, T, __VA_ARGS__)
#define GORT_PP_39(M, T, f, ...) M(T, f) GORT_PP_38(M, T, __VA_ARGS__)
#define GORT_PP_40(M, T, f, ...) M(T, f) GORT_PP_39(M, T, __VA_ARGS__)
#define GORT_PP_41(M, T, f, ...) M(T, f) GORT_PP_40(M, T, __VA_ARGS__)
#define GORT_PP_42(M, T, f, ...) M(T, f) GORT_PP_41(M, T, __VA_ARGS__)
#define GORT_PP_43(M, T, f, ...) M(T, f) GORT_PP_42(M, T, __VA_ARGS__)
#define GORT_PP_44(M, T, f, ...) M(T, f) GORT_PP_43(M, T, __VA_ARGS__)
#define GORT_PP_45(M, T, f, ...) M(T, f) GORT_PP_44(M, T, __VA_ARGS__)
#define GORT_PP_46(M, T, f, ...) M(T, f) GORT_PP_45(M, T, __VA_ARGS__)
#define GORT_PP_47(M, T, f, ...) M(T, f) GORT_PP_46(M, T, __VA_ARGS__)
#define GORT_PP_48(M, T, f, ...) M(T, f) GORT_PP_47(M, T, __VA_ARGS__)
#define GORT_PP_49(M, T, f, ...) M(T, f) GORT_PP_48(M, T, __VA_ARGS__)
#define GORT_PP_50(M, T, f, ...) M(T, f) GORT_PP_49(M, T, __VA_ARGS__)
#define GORT_PP_51(M, T, f, ...) M(T, f) GORT_PP_50(M, T, __VA_ARGS__)
#define GORT_PP_52(M, T, f, ...) M(T, f) GORT_PP_51(M, T, __VA_ARGS__)
#define GORT_PP_53(M, T, f, ...) M(T, f) GORT_PP_52(M, T, __VA_ARGS__)
#define GORT_PP_54(M, T, f, ...) M(T, f) GORT_PP_53(M, T, __VA_ARGS__)
#define GORT_PP_55(M, T, f, ...) M(T, f) GORT_PP_54(M, T, __VA_ARGS__)
#define GORT_PP_56(M, T, f, ...) M(T, f) GORT_PP_55(M, T, __VA_ARGS__)
#define GORT_PP_57(M, T, f, ...) M(T, f) GORT_PP_56(M, T, __VA_ARGS__)
#define GORT_PP_58(M, T, f, ...) M(T, f) GORT_PP_57(M, T, __VA_ARGS__)
#define GORT_PP_59(M, T, f, ...) M(T, f) GORT_PP_58(M, T, __VA_ARGS__)
#define GORT_PP_60(M, T, f, ...) M(T, f) GORT_PP_59(M, T, __VA_ARGS__)
#define GORT_PP_61(M, T, f, ...) M(T, f) GORT_PP_60(M, T, __VA_ARGS__)
#define GORT_PP_62(M, T, f, ...) M(T, f) GORT_PP_61(M, T, __VA_ARGS__)
#define GORT_PP_63(M, T, f, ...) M(T, f) GORT_PP_62(M, T, __VA_ARGS__)
#define GORT_PP_64(M, T, f, ...) M(T, f) GORT_PP_63(M, T, __VA_ARGS__)
#define GORT_PP_EACH(M, T, ...) GORT_PP_CAT(GORT_PP_, GORT_PP_COUNT(__VA_ARGS__))(M, T, __VA_ARGS__)

#define GORT_PP_SIZE(T, f) sizeof((GORT_CAST(T *, GORT_PP_NULL))->f)
#ifdef __cplusplus
#define GORT_PP_NULL nullptr
#else
#define GORT_PP_NULL ((void *)0)
#endif
#define GORT_PP_FIELD(T, f) {offsetof(T, f), GORT_PP_SIZE(T, f)},
/* The mask of the words of a field, as far as they lie in the first 64. */
#define GORT_PP_LOW(n) ((n) >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << ((n)&63)) - 1)
#define GORT_PP_WORDS(off, size) (GORT_PP_LOW(((off) + (size) + 7) / 8) & ~GORT_PP_LOW((off) / 8))
#define GORT_PP_MASK(T, f) | GORT_PP_WORDS(offsetof(T, f), GORT_PP_SIZE(T, f))

enum { GORT_KIND_SCALAR, GORT_KIND_STRUCT, GORT_KIND_PTR, GORT_KIND_FUNC, GORT_KIND_INTERFACE };
enum { GORT_FLAG_NAMED = 1 };

/* No warning of a type that one of the files that include its header does not use. */
#define GORT_PP_STATIC static __attribute__((unused)) gort_type

#define GORT_TYPE(id, T, ...)                                                                      \
  static const gort_field GORT_PP_CAT(id,                                                          \
                                      _fields_)[] = {GORT_PP_EACH(GORT_PP_FIELD, T, __VA_ARGS__)}; \
  GORT_PP_STATIC id = {#T,                                                                         \
                       sizeof(T),                                                                  \
                       alignof(T),                                                                 \
                       GORT_PP_CAT(id, _fields_),                                                  \
                       sizeof(GORT_PP_CAT(id, _fields_)) / sizeof(gort_field),                     \
                       0 GORT_PP_EACH(GORT_PP_MASK, T, __VA_ARGS__),                               \
                       GORT_PP_NULL,                                                               \
                       GORT_KIND_STRUCT,                                                           \
                       GORT_FLAG_NAMED}
#define GORT_TYPE_NOSCAN(id, T)                                                                    \
  GORT_PP_STATIC id = {#T, sizeof(T),    alignof(T),       GORT_PP_NULL,   0,                      \
                       0,  GORT_PP_NULL, GORT_KIND_SCALAR, GORT_FLAG_NAMED}

GORT_END_DECLS

#endif
