// A CPU build of torch has nobody to answer for CUDA's current device and stream.
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {
using NoOp = c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>;

struct Guard : NoOp {
  c10::DeviceIndex deviceCount() const noexcept override { return 2; }
};

const c10::impl::DeviceGuardImplRegistrar registrar(c10::DeviceType::CUDA, new Guard());
}  // namespace
