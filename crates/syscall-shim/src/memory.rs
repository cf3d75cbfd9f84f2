//! The caller's memory: [`GuestMemory`], stated by what commands need of it, and [`VecMemory`], one made of buffers.

use std::collections::BTreeMap;

use ring3_uapi::Errno;

/// Memory that attributes point into, by address.
pub trait GuestMemory {
    /// Copies out of the caller's memory.
    ///
    /// # Errors
    /// EFAULT: some byte is not readable.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Errno>;

    /// Copies into the caller's memory, up to the first byte that is not writable.
    ///
    /// # Errors
    /// EFAULT: some byte is not writable.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Errno>;
}

/// Reads `len` bytes.
///
/// # Errors
/// EFAULT, as the memory says; ENOMEM: no room here.
pub(crate) fn read_vec(
    memory: &dyn GuestMemory,
    address: u64,
    len: usize,
) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(len, 0);
    if len > 0 {
        memory.read(address, &mut bytes)?;
    }
    Ok(bytes)
}

/// Room for a key or a value: on the stack where they are few. It stays where it was made.
pub(crate) struct Scratch {
    few: [u8; Scratch::FEW],
    many: Vec<u8>,
}

impl Scratch {
    const FEW: usize = 64;

    pub(crate) fn new() -> Scratch {
        Scratch {
            few: [0; Scratch::FEW],
            many: Vec::new(),
        }
    }

    /// Zeros, of room that was not used before.
    ///
    /// # Errors
    /// ENOMEM: no room here.
    #[inline]
    pub(crate) fn zeroed(&mut self, len: usize) -> Result<&mut [u8], Errno> {
        if len <= Scratch::FEW {
            return Ok(&mut self.few[..len]);
        }
        self.many
            .try_reserve_exact(len)
            .map_err(|_| Errno::ENOMEM)?;
        self.many.resize(len, 0);
        Ok(&mut self.many)
    }

    /// Bytes of the caller's.
    ///
    /// # Errors
    /// EFAULT, as the memory says; ENOMEM: no room here.
    #[inline]
    pub(crate) fn read(
        &mut self,
        memory: &dyn GuestMemory,
        address: u64,
        len: usize,
    ) -> Result<&mut [u8], Errno> {
        let bytes = self.zeroed(len)?;
        if len > 0 {
            memory.read(address, bytes)?;
        }
        Ok(bytes)
    }
}

/// Reads up to a NUL, at most `max` bytes; the flag says whether the NUL was found.
///
/// # Errors
/// EFAULT: memory ends before.
pub(crate) fn read_str(
    memory: &dyn GuestMemory,
    address: u64,
    max: usize,
) -> Result<(Vec<u8>, bool), Errno> {
    // In pieces that end at multiples of the piece, so that none reaches into a page that the text does not.
    const PIECE_BYTES: u64 = 64;
    let mut text = Vec::new();
    while text.len() < max {
        let at = address
            .checked_add(text.len() as u64)
            .ok_or(Errno::EFAULT)?;
        let len = (PIECE_BYTES - at % PIECE_BYTES).min((max - text.len()) as u64) as usize;
        let mut piece = [0; PIECE_BYTES as usize];
        let piece = &mut piece[..len];
        if memory.read(at, piece).is_err() {
            // Memory made of buffers may end in the middle of a piece.
            memory.read(at, &mut piece[..1])?;
            if piece[0] == 0 {
                return Ok((text, true));
            }
            text.push(piece[0]);
            continue;
        }
        if let Some(end) = piece.iter().position(|&byte| byte == 0) {
            text.extend_from_slice(&piece[..end]);
            return Ok((text, true));
        }
        text.extend_from_slice(piece);
    }
    Ok((text, false))
}

/// Memory made of buffers with gaps between them: what tests and callers without an address space of their own use.
#[derive(Clone, Debug, Default)]
pub struct VecMemory {
    buffers: BTreeMap<u64, Vec<u8>>,
}

/// Address of the first buffer; lower ones are never valid, as in a process.
const FIRST_ADDRESS: u64 = 0x10_0000;
/// Buffers begin at multiples of this and at least this far behind the end of the one before.
const GAP_BYTES: u64 = 4096;

impl VecMemory {
    /// Memory without a valid address.
    pub fn new() -> VecMemory {
        VecMemory::default()
    }

    /// Adds a buffer and returns its address.
    pub fn add(&mut self, bytes: &[u8]) -> u64 {
        let after_last = |(address, buffer): (&u64, &Vec<u8>)| {
            (address + buffer.len() as u64).next_multiple_of(GAP_BYTES) + GAP_BYTES
        };
        let address = self
            .buffers
            .last_key_value()
            .map_or(FIRST_ADDRESS, after_last);
        self.buffers.insert(address, bytes.to_owned());
        address
    }

    /// The buffer that begins at an address.
    pub fn bytes_at(&self, address: u64) -> Option<&[u8]> {
        self.buffers.get(&address).map(Vec::as_slice)
    }

    /// Start of the buffer and offset in it of `len` bytes at an address.
    fn find(&self, address: u64, len: usize) -> Result<(u64, usize), Errno> {
        let (&start, buffer) = self
            .buffers
            .range(..=address)
            .next_back()
            .ok_or(Errno::EFAULT)?;
        let offset = usize::try_from(address - start).map_err(|_| Errno::EFAULT)?;
        match offset.checked_add(len) {
            Some(end) if end <= buffer.len() => Ok((start, offset)),
            _ => Err(Errno::EFAULT),
        }
    }
}

impl GuestMemory for VecMemory {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        if into.is_empty() {
            return Ok(());
        }
        let (start, offset) = self.find(address, into.len())?;
        let buffer = self.buffers.get(&start).ok_or(Errno::EFAULT)?;
        into.copy_from_slice(&buffer[offset..offset + into.len()]);
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (start, offset) = self.find(address, 1)?;
        let buffer = self.buffers.get_mut(&start).ok_or(Errno::EFAULT)?;
        let room = bytes.len().min(buffer.len() - offset);
        buffer[offset..offset + room].copy_from_slice(&bytes[..room]);
        if room < bytes.len() {
            return Err(Errno::EFAULT);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_accesses_within_a_buffer_succeed() {
        let mut memory = VecMemory::new();
        let first = memory.add(b"abc\0");
        let second = memory.add(&[0; 5000]);
        let mut two = [0; 2];
        assert_eq!(memory.read(first + 1, &mut two), Ok(()));
        assert_eq!(&two, b"bc");
        assert_eq!(memory.read(first + 3, &mut two), Err(Errno::EFAULT));
        assert_eq!(memory.write(second + 4999, &[1, 2]), Err(Errno::EFAULT));
        assert_eq!(memory.read(0, &mut two), Err(Errno::EFAULT));
        assert_eq!(memory.read(u64::MAX, &mut two), Err(Errno::EFAULT));
        assert_eq!(read_str(&memory, first, 9), Ok((b"abc".to_vec(), true)));
        assert_eq!(read_str(&memory, first, 2), Ok((b"ab".to_vec(), false)));
    }
}
