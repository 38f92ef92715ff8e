//! Copying memory that another process may be writing.

/// Copies `len` bytes by the C library's `memcpy`.
///
/// The memory may be shared with a peer that writes to it meanwhile; the copy then holds some mixture of bytes, as with any
/// one-sided access. That is why this is a call into foreign code and not a copy of Rust values.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes, and they do not overlap.
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { libc::memcpy(to.cast(), from.cast(), len) };
}
