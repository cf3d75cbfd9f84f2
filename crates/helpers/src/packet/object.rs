//! `Object<N>`: N bytes laid out as a kernel object, read and written by offset in host byte order.

/// A kernel object's memory, aligned as the kernel's allocator would.
#[repr(C, align(64))]
#[derive(Clone)]
pub(super) struct Object<const N: usize>([u8; N]);

impl<const N: usize> Object<N> {
    pub(super) fn zeroed() -> Self {
        Object([0; N])
    }

    pub(super) fn clear(&mut self) {
        self.0.fill(0);
    }

    pub(super) fn u8(&self, offset: usize) -> u8 {
        self.0[offset]
    }

    pub(super) fn u16(&self, offset: usize) -> u16 {
        u16::from_ne_bytes([self.0[offset], self.0[offset + 1]])
    }

    pub(super) fn u32(&self, offset: usize) -> u32 {
        u32::from_ne_bytes(std::array::from_fn(|i| self.0[offset + i]))
    }

    pub(super) fn u64(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(std::array::from_fn(|i| self.0[offset + i]))
    }

    pub(super) fn set(&mut self, offset: usize, bytes: &[u8]) {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn set_u8(&mut self, offset: usize, value: u8) {
        self.0[offset] = value;
    }

    pub(super) fn set_u16(&mut self, offset: usize, value: u16) {
        self.set(offset, &value.to_ne_bytes());
    }

    pub(super) fn set_u32(&mut self, offset: usize, value: u32) {
        self.set(offset, &value.to_ne_bytes());
    }

    pub(super) fn set_u64(&mut self, offset: usize, value: u64) {
        self.set(offset, &value.to_ne_bytes());
    }

    pub(super) fn bytes(&self) -> &[u8; N] {
        &self.0
    }
}
