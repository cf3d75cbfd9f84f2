//! Open-coded iterators over numbers and bits: `bpf_iter_num_*`, `bpf_iter_bits_*`. They live on the program's stack.

use ring3_runtime::extable;
use ring3_uapi::Errno;

use super::{kfuncs, zero_or};

/// Most steps of a walk. Source: `BPF_MAX_LOOPS`.
const STEPS_MAX: i64 = 8 << 20;
/// Most words of bits. Source: `BITS_ITER_NR_WORDS_MAX`.
const WORDS_MAX: u32 = 511;

/// `struct bpf_iter_num`
#[repr(C)]
struct Numbers {
    current: i32,
    end: i32,
}

impl Numbers {
    const OVER: Numbers = Numbers { current: 0, end: 0 };

    /// # Errors
    /// EINVAL: the end is before the start. E2BIG: too many steps.
    fn new(start: i32, end: i32) -> Result<Numbers, Errno> {
        if start > end {
            return Err(Errno::EINVAL);
        }
        if i64::from(end) - i64::from(start) > STEPS_MAX {
            return Err(Errno::E2BIG);
        }
        Ok(Numbers {
            current: start.wrapping_sub(1),
            end,
        })
    }

    /// Whether there is a next number, which is then current.
    fn step(&mut self) -> bool {
        let next = i64::from(self.current) + 1;
        // A walk from the least number begins one before it, which is the greatest.
        let next = next as i32;
        if next >= self.end {
            *self = Numbers::OVER;
            return false;
        }
        self.current = next;
        true
    }
}

/// `struct bpf_iter_bits`
#[repr(C)]
struct Bits {
    /// The one word, or the address of a boxed slice of them.
    words: u64,
    /// Bits there are, 0 when the walk is over before it began.
    count: u32,
    /// The bit found last, -1 before the first.
    bit: i32,
}

impl Bits {
    const OVER: Bits = Bits {
        words: 0,
        count: 0,
        bit: 0,
    };

    /// A walk over words at any address.
    ///
    /// # Errors
    /// EINVAL: nothing to walk. E2BIG: too many words. EFAULT: they cannot be read.
    fn new(address: u64, word_count: u32) -> Result<Bits, Errno> {
        if address == 0 || word_count == 0 {
            return Err(Errno::EINVAL);
        }
        if word_count > WORDS_MAX {
            return Err(Errno::E2BIG);
        }
        let mut words = vec![0u64; word_count as usize].into_boxed_slice();
        // SAFETY: 1. the slice is writable for its bytes.
        let is_read = unsafe {
            extable::probe_copy(
                words.as_mut_ptr().cast(),
                address,
                word_count as usize * size_of::<u64>(),
            )
        };
        if !is_read {
            return Err(Errno::EFAULT);
        }
        let words = match *words {
            [word] => word,
            _ => Box::into_raw(words).cast::<u64>().expose_provenance() as u64,
        };
        Ok(Bits {
            words,
            count: word_count * 64,
            bit: -1,
        })
    }

    fn slice(&self) -> *mut [u64] {
        let start = std::ptr::with_exposed_provenance_mut(self.words as usize);
        std::ptr::slice_from_raw_parts_mut(start, self.count as usize / 64)
    }

    /// Whether there is a further bit, which is then current.
    fn step(&mut self) -> bool {
        let word = |at: u32| {
            if self.count == 64 {
                return self.words;
            }
            // SAFETY: 1. more than one word: the slice that `new` made, which lives until `end`; 2. `at` is below their number.
            unsafe { (*self.slice())[at as usize] }
        };
        let mut bit = (self.bit + 1) as u32;
        while bit < self.count {
            let rest = word(bit / 64) >> (bit % 64);
            if rest != 0 {
                self.bit = (bit + rest.trailing_zeros()) as i32;
                return true;
            }
            bit = (bit / 64 + 1) * 64;
        }
        self.bit = self.count as i32;
        false
    }

    fn end(&mut self) {
        if self.count > 64 {
            // SAFETY: 1. the slice that `new` made; 2. the count below makes this the only time.
            drop(unsafe { Box::from_raw(self.slice()) });
        }
        *self = Bits::OVER;
    }
}

/// # Safety
/// `place` is an iterator's place on a program's stack, 8-aligned.
unsafe fn begin<T>(place: *mut T, over: T, made: Result<T, Errno>) -> Result<(), Errno> {
    let (iterator, result) = match made {
        Ok(iterator) => (iterator, Ok(())),
        Err(errno) => (over, Err(errno)),
    };
    // SAFETY: 1. the caller's promise.
    unsafe { place.write(iterator) };
    result
}

kfuncs! { ROWS(Plain):
    bpf_iter_num_new(place: *mut Numbers, start: i32, end: i32) {
        // SAFETY: 1. KF_ITER_NEW: the verifier reserved the stack slots.
        zero_or(unsafe { begin(place, Numbers::OVER, Numbers::new(start, end)) })
    }
    bpf_iter_num_next(place: *mut Numbers) {
        // SAFETY: 1. KF_ITER_NEXT: an iterator that was begun.
        let numbers = unsafe { &mut *place };
        if numbers.step() {
            &raw const numbers.current
        } else {
            std::ptr::null()
        }
    }
    bpf_iter_num_destroy(place: *mut Numbers) {
        // SAFETY: 1. KF_ITER_DESTROY: an iterator that was begun.
        unsafe { place.write(Numbers::OVER) }
    }
    bpf_iter_bits_new(place: *mut Bits, address: u64, words: u32) {
        // SAFETY: as for numbers.
        zero_or(unsafe { begin(place, Bits::OVER, Bits::new(address, words)) })
    }
    bpf_iter_bits_next(place: *mut Bits) {
        // SAFETY: as for numbers.
        let bits = unsafe { &mut *place };
        if bits.step() {
            &raw const bits.bit
        } else {
            std::ptr::null()
        }
    }
    bpf_iter_bits_destroy(place: *mut Bits) {
        // SAFETY: as for numbers.
        unsafe { (*place).end() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_from_the_least() {
        let mut numbers = Numbers::new(i32::MIN, i32::MIN + 2).unwrap();
        assert!(numbers.step());
        assert_eq!(numbers.current, i32::MIN);
        assert!(numbers.step() && !numbers.step() && !numbers.step());
        assert_eq!(Numbers::new(1, 0).err(), Some(Errno::EINVAL));
        assert_eq!(Numbers::new(0, 8 << 20 | 1).err(), Some(Errno::E2BIG));
        assert!(!Numbers::new(5, 5).unwrap().step());
    }

    #[test]
    fn bits_across_words() {
        let words = [1u64 << 63, 0, 5];
        let address = words.as_ptr().expose_provenance() as u64;
        let mut bits = Bits::new(address, 3).unwrap();
        let mut found = Vec::new();
        while bits.step() {
            found.push(bits.bit);
        }
        bits.end();
        assert_eq!(found, [63, 128, 130]);
        assert!(!bits.step());
        assert_eq!(Bits::new(0, 1).err(), Some(Errno::EINVAL));
        assert_eq!(Bits::new(address, 512).err(), Some(Errno::E2BIG));
        assert_eq!(Bits::new(8, 2).err(), Some(Errno::EFAULT));
    }
}
