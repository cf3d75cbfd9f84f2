//! `union bpf_attr`: the rules of its size, and access by offset. Key type: [`Attr`].

use ring3_uapi::{Errno, limits::ATTR_BYTES};

/// Bytes of attributes that bpf(2) looks at in any case. Source: one page.
pub(crate) const SIZE_BYTES_MAX: usize = 4096;

/// The attributes of one call: zero-extended to the size of the union, and the caller's own bytes, which results are written to.
pub(crate) struct Attr<'a> {
    bytes: [u8; ATTR_BYTES],
    user: &'a mut [u8],
}

impl<'a> Attr<'a> {
    /// Takes the caller's bytes.
    ///
    /// # Errors
    /// E2BIG: more than a page, or bytes beyond the union that are not zero.
    pub(crate) fn new(user: &'a mut [u8]) -> Result<Attr<'a>, Errno> {
        if user.len() > SIZE_BYTES_MAX || user.iter().skip(ATTR_BYTES).any(|&byte| byte != 0) {
            return Err(Errno::E2BIG);
        }
        let mut bytes = [0; ATTR_BYTES];
        let known = user.len().min(ATTR_BYTES);
        bytes[..known].copy_from_slice(&user[..known]);
        Ok(Attr { bytes, user })
    }

    /// EINVAL unless everything behind a command's last field is zero.
    pub(crate) fn check_end(&self, end: usize) -> Result<(), Errno> {
        let given = self.user.len().min(ATTR_BYTES);
        if end < given && self.bytes[end..given].iter().any(|&byte| byte != 0) {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// Bytes that the caller gave.
    pub(crate) fn size(&self) -> usize {
        self.user.len()
    }

    /// `N` bytes at an offset that is a constant of the layout.
    pub(crate) fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let field = self.bytes.get(at..).and_then(|rest| rest.first_chunk());
        *field.expect("offsets are those of the union")
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.array(at))
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.array(at))
    }

    /// A descriptor.
    pub(crate) fn fd(&self, at: usize) -> i32 {
        self.u32(at) as i32
    }

    /// Writes a result into the caller's attributes.
    pub(crate) fn put_u32(&mut self, at: usize, value: u32) {
        // DIVERGES: the kernel writes results of BPF_*_GET_NEXT_ID, BPF_PROG_TEST_RUN and batches behind the size the caller stated; here they are
        // dropped: a short attribute block ends where the caller says.
        if let Some(field) = self.user.get_mut(at..at + 4) {
            field.copy_from_slice(&value.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_attributes_are_extended_and_long_ones_must_end_in_zeros() {
        let mut short = [1, 0, 0, 0, 2];
        let attr = Attr::new(&mut short).unwrap();
        assert_eq!((attr.u32(0), attr.u32(4), attr.u64(160)), (1, 2, 0));
        assert_eq!(attr.check_end(5), Ok(()));
        assert_eq!(attr.check_end(4), Err(Errno::EINVAL));
        assert!(Attr::new(&mut [0; SIZE_BYTES_MAX]).is_ok());
        assert_eq!(
            Attr::new(&mut [0; SIZE_BYTES_MAX + 1]).err(),
            Some(Errno::E2BIG)
        );
        let mut dirty = [0; ATTR_BYTES + 1];
        dirty[ATTR_BYTES] = 1;
        assert_eq!(Attr::new(&mut dirty).err(), Some(Errno::E2BIG));
    }
}
