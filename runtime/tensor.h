// Tensor: a typed, strided view of reference-counted storage.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/memory.h"

namespace longship {

using Shape = std::vector<int64_t>;

// Product of the extents; throws Error(kInternal) on a negative extent or 64-bit overflow.
int64_t num_elements(const Shape& shape);
std::string shape_string(const Shape& shape);  // "[3, 64]"

// Copying a Tensor copies the view, never the elements; storage is freed with its last view.
// Sizes, strides and offsets are 64-bit and counted in elements. Zero-element tensors are legal.
class Tensor {
 public:
  Tensor() = default;  // undefined

  static Tensor empty(const std::shared_ptr<Memory>& memory, Shape shape, DType dtype);
  static Tensor zeros(const std::shared_ptr<Memory>& memory, Shape shape, DType dtype);
  // Shape and dtype alone; elements are borrowed, see borrow().
  static Tensor without_elements(const std::shared_ptr<Memory>& memory, Shape shape, DType dtype);
  // A copy of host values.
  template <class T>
  static Tensor from(const std::shared_ptr<Memory>& memory, Shape shape, std::span<const T> values);

  bool defined() const { return storage_ != nullptr; }
  DType dtype() const { return dtype_; }
  Device device() const { return memory()->device(); }
  // False in memory for planning: shape and strides are all there is.
  bool has_elements() const { return memory()->has_elements(); }
  const Shape& shape() const { return shape_; }
  const Shape& strides() const { return strides_; }
  int rank() const { return static_cast<int>(shape_.size()); }
  // Extent of a dimension; negative counts from the back.
  int64_t dim(int index) const;
  int64_t numel() const { return numel_; }
  int64_t num_bytes() const { return numel_ * dtype_size(dtype_); }
  bool is_contiguous() const;
  // True when no other Tensor views the same storage, so that it may be changed in place.
  bool is_unique() const { return storage_.use_count() == 1; }
  const std::shared_ptr<Memory>& memory() const;

  // Pointer to the first element, for code that runs on the CPU; T must match dtype(). Throws
  // Error(kInternal) if the tensor lies on a GPU or has no elements.
  template <class T>
  T* data() const {
    check_dtype(DTypeOf<T>::value);
    return reinterpret_cast<T*>(raw());
  }
  std::byte* raw() const;
  // The same on any device: what copies, kernels and libraries of the device are given.
  template <class T>
  T* device_data() const {
    check_dtype(DTypeOf<T>::value);
    return reinterpret_cast<T*>(address());
  }
  std::byte* address() const;

  // Of a tensor made by without_elements(): from now on it and every view of it, older ones too,
  // have the elements of `lender`, which is contiguous and has its memory, dtype and size. They are
  // kept until give_back(), after which nobody may touch elements until the next borrow().
  void borrow(const Tensor& lender) const;
  void give_back() const;

  // Views. reshape() needs a contiguous tensor; one extent may be -1.
  Tensor reshape(Shape shape) const;
  Tensor slice(int dim, int64_t begin, int64_t length) const;
  Tensor transpose(int dim_a, int dim_b) const;

  // This tensor if already contiguous, else a packed copy.
  Tensor contiguous() const;
  Tensor clone() const;
  // A copy in another floating dtype (as strided_copy() rounds), or this tensor if equal.
  Tensor to(DType dtype) const;
  // A copy in this memory, or this tensor if it lies there already.
  Tensor to(const std::shared_ptr<Memory>& memory) const;
  // Copies elements from `source`: same shape, any strides, no overlap; floating dtypes convert.
  // On a GPU this is enqueued on the stream of its memory; between host and GPU, the host waits
  // until it may use both sides (copy_async() in runtime/device_copy.h does not wait).
  void copy_from(const Tensor& source) const;
  void fill_zero() const;

  // Says that work enqueued on `stream` so far, or before the storage is freed, uses the elements:
  // they are kept until that work is done. Not needed for memory()->stream(). The work itself has
  // to begin after an event of memory()->stream().
  void used_on(const std::shared_ptr<const Stream>& stream) const;

 private:
  struct Storage;

  static Tensor make(const std::shared_ptr<Memory>& memory, Shape shape, DType dtype, bool borrows);
  void check_dtype(DType expected) const {
    LONGSHIP_CHECK(expected == dtype_, "tensor is {}, not {}", dtype_name(dtype_),
                   dtype_name(expected));
  }

  std::shared_ptr<Storage> storage_;
  Shape shape_;
  Shape strides_;
  int64_t offset_ = 0;
  int64_t numel_ = 0;
  DType dtype_ = DType::kF32;
};

}  // namespace longship
