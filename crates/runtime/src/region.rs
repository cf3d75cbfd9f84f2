//! Checked memory: which ranges a program may touch, for engines that do not trust the verifier (checked mode, conformance programs).
//!
//! Regions do not overlap. Lookup is a binary search over a sorted vector; a run has a handful (stack, memory, context, map values).

/// What a program may do with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permissions {
    /// Loads only.
    Read,
    /// Loads, stores and atomics.
    ReadWrite,
}

/// What an instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A store or an atomic operation.
    Write,
}

/// A range of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemRegion {
    /// First address.
    pub start: u64,
    /// Number of bytes.
    pub len_bytes: u64,
    /// What is allowed.
    pub permissions: Permissions,
    /// Name in messages: `stack`, `memory`, `map 'flows' value`.
    pub name: String,
}

/// An access outside of every region, or against its permissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessViolation {
    /// First address of the access.
    pub address: u64,
    /// Bytes accessed.
    pub size_bytes: u64,
    /// Direction.
    pub access: Access,
    /// The region that begins at or before the address, if any: its name and the offset in it.
    pub nearest: Option<(String, u64)>,
}

impl std::fmt::Display for AccessViolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verb = match self.access {
            Access::Read => "load",
            Access::Write => "store",
        };
        write!(
            f,
            "invalid {verb} of {} bytes at {:#x}",
            self.size_bytes, self.address
        )?;
        match &self.nearest {
            Some((name, offset)) => write!(f, " ({name}+{offset:#x})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for AccessViolation {}

/// The live regions of a run.
#[derive(Clone, Debug, Default)]
pub struct Regions {
    /// Sorted by `start`, disjoint.
    sorted: Vec<MemRegion>,
}

impl Regions {
    /// No memory at all.
    pub fn new() -> Self {
        Regions::default()
    }

    /// Adds a region.
    ///
    /// # Errors
    /// Gives the region back if it wraps around the address space or overlaps another; empty regions are accepted and ignored.
    pub fn add(&mut self, region: MemRegion) -> Result<(), MemRegion> {
        if region.len_bytes == 0 {
            return Ok(());
        }
        let Some(end) = region.start.checked_add(region.len_bytes) else {
            return Err(region);
        };
        let at = self
            .sorted
            .partition_point(|other| other.start < region.start);
        let overlaps_next = self.sorted.get(at).is_some_and(|next| next.start < end);
        let overlaps_previous = at > 0 && {
            let previous = &self.sorted[at - 1];
            previous.start + previous.len_bytes > region.start
        };
        if overlaps_next || overlaps_previous {
            return Err(region);
        }
        self.sorted.insert(at, region);
        Ok(())
    }

    /// Removes the region that starts at `start`.
    pub fn remove(&mut self, start: u64) -> Option<MemRegion> {
        let at = self
            .sorted
            .binary_search_by_key(&start, |region| region.start)
            .ok()?;
        Some(self.sorted.remove(at))
    }

    /// The regions, by address.
    pub fn iter(&self) -> impl Iterator<Item = &MemRegion> {
        self.sorted.iter()
    }

    /// Whether `size_bytes` from `address` lie in one region that permits `access`.
    ///
    /// # Errors
    /// [`AccessViolation`] otherwise.
    pub fn check(
        &self,
        address: u64,
        size_bytes: u64,
        access: Access,
    ) -> Result<(), AccessViolation> {
        let at = self
            .sorted
            .partition_point(|region| region.start <= address);
        let candidate = at.checked_sub(1).map(|at| &self.sorted[at]);
        if let Some(region) = candidate {
            let offset = address - region.start;
            let inside = offset <= region.len_bytes && size_bytes <= region.len_bytes - offset;
            if inside && (access == Access::Read || region.permissions == Permissions::ReadWrite) {
                return Ok(());
            }
        }
        let nearest = candidate.map(|region| (region.name.clone(), address - region.start));
        Err(AccessViolation {
            address,
            size_bytes,
            access,
            nearest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(start: u64, len_bytes: u64, permissions: Permissions) -> MemRegion {
        MemRegion {
            start,
            len_bytes,
            permissions,
            name: format!("at {start}"),
        }
    }

    #[test]
    fn accesses_are_inside_one_region() {
        let mut regions = Regions::new();
        regions
            .add(region(100, 10, Permissions::ReadWrite))
            .unwrap();
        regions.add(region(110, 10, Permissions::Read)).unwrap();
        assert_eq!(regions.check(100, 8, Access::Write), Ok(()));
        assert_eq!(regions.check(102, 8, Access::Write), Ok(()));
        assert!(
            regions.check(103, 8, Access::Read).is_err(),
            "crosses into the next region"
        );
        assert!(regions.check(99, 1, Access::Read).is_err());
        assert!(regions.check(112, 1, Access::Write).is_err());
        assert_eq!(regions.check(112, 1, Access::Read), Ok(()));
        assert!(regions.check(u64::MAX, 8, Access::Read).is_err());
        let text = regions
            .check(103, 8, Access::Write)
            .unwrap_err()
            .to_string();
        assert_eq!(text, "invalid store of 8 bytes at 0x67 (at 100+0x3)");
    }

    #[test]
    fn overlap_and_wrap_are_refused() {
        let mut regions = Regions::new();
        regions.add(region(100, 10, Permissions::Read)).unwrap();
        for (start, len) in [
            (95, 6),
            (100, 1),
            (105, 1),
            (109, 5),
            (u64::MAX, 2),
            (90, 40),
        ] {
            assert!(
                regions.add(region(start, len, Permissions::Read)).is_err(),
                "{start} {len}"
            );
        }
        assert!(regions.add(region(50, 50, Permissions::Read)).is_ok());
        assert!(regions.remove(100).is_some());
        assert!(regions.remove(100).is_none());
        assert_eq!(regions.iter().count(), 1);
    }
}
