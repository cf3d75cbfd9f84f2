//! `union bpf_attr`: the rules of its size, and access by offset. Key type: [`Attr`].

use ring3_uapi::{Errno, limits::ATTR_BYTES};

/// Bytes of attributes that bpf(2) looks at in any case. Source: one page.
pub(crate) const SIZE_BYTES_MAX: usize = 4096;

/// The attributes of one call: the caller's bytes, which results are written to, zero-extended to the size of the union where they are read.
pub(crate) struct Attr<'a> {
    user: &'a mut [u8],
}

/// Without a branch per byte: blocks are short.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |all, byte| all | byte) == 0
}

impl<'a> Attr<'a> {
    /// Takes the caller's bytes.
    ///
    /// # Errors
    /// E2BIG: more than a page, or bytes beyond the union that are not zero.
    pub(crate) fn new(user: &'a mut [u8]) -> Result<Attr<'a>, Errno> {
        if user.len() > ATTR_BYTES && (user.len() > SIZE_BYTES_MAX || !is_zero(&user[ATTR_BYTES..]))
        {
            return Err(Errno::E2BIG);
        }
        Ok(Attr { user })
    }

    /// EINVAL unless everything behind a command's last field is zero.
    pub(crate) fn check_end(&self, end: usize) -> Result<(), Errno> {
        match self.user.get(end..) {
            Some(rest) if !is_zero(rest) => Err(Errno::EINVAL),
            _ => Ok(()),
        }
    }

    /// Bytes that the caller gave.
    pub(crate) fn size(&self) -> usize {
        self.user.len()
    }

    /// `N` bytes at an offset that is a constant of the layout.
    #[inline]
    pub(crate) fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        match self.user.get(at..).and_then(|rest| rest.first_chunk()) {
            Some(field) => *field,
            None => self.extended(at),
        }
    }

    /// A field that the caller gave in part or not at all.
    #[cold]
    fn extended<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut field = [0; N];
        for (byte, given) in field.iter_mut().zip(self.user.iter().skip(at)) {
            *byte = *given;
        }
        field
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
