//! `Mprog`: the ordered entries of one hook, and how a request changes them.
//!
//! Positions: let the active array be e(0)..e(n-1). A rule gives a gap g in -1..=n, where BEFORE e(i) is gap i-1 and AFTER e(i) is gap i+1, the
//! numbers an entry would take that was already there; without a relative, BEFORE is -1 and AFTER is n. REPLACE of e(i) is i itself. Rules
//! agree when their numbers are equal. An insertion BEFORE goes to index g+1, one AFTER to index g; a removal takes the entry at g, the ends
//! standing for the first and the last.

use alloc::vec::Vec;

use ring3_uapi::{Errno, limits::MPROG_MAX};

use crate::{Anchor, anchor::Named};

/// One attached program, by itself or through a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<P, L> {
    /// The program that runs.
    pub prog: P,
    /// The link that holds it, if it was attached through one.
    pub link: Option<L>,
}

impl<P, L> Entry<P, L> {
    /// A program attached without a link.
    pub const fn program(prog: P) -> Self {
        Entry { prog, link: None }
    }

    /// A program attached through a link.
    pub const fn link(prog: P, link: L) -> Self {
        Entry {
            prog,
            link: Some(link),
        }
    }
}

impl<P: PartialEq, L: PartialEq> Entry<P, L> {
    /// Whether this entry is what an anchor names: the same program, and the same link if the anchor names one.
    fn is_named_by(&self, anchor: &Entry<P, L>) -> bool {
        self.prog == anchor.prog && (anchor.link.is_none() || self.link == anchor.link)
    }
}

/// The entries of one hook. Both arrays are allocated once, at their full size.
#[derive(Clone, Debug)]
pub struct Mprog<P, L> {
    arrays: [Vec<Entry<P, L>>; 2],
    active: usize,
    revision: u64,
}

/// An edit that is written to the spare array and waits to be published.
#[must_use = "an edit takes effect only when it is committed"]
#[derive(Debug)]
pub struct Pending<'a, P, L> {
    hook: &'a mut Mprog<P, L>,
    removed: Option<Entry<P, L>>,
}

impl<P, L> Pending<'_, P, L> {
    /// The entries as they will be.
    pub fn entries(&self) -> &[Entry<P, L>] {
        &self.hook.arrays[1 - self.hook.active]
    }

    /// Makes the edit the hook's state. Returns what was replaced or detached, the last the hook has of it; its references are released after
    /// readers are gone.
    pub fn commit(self) -> Option<Entry<P, L>> {
        self.hook.arrays[self.hook.active].clear();
        self.hook.active = 1 - self.hook.active;
        self.hook.revision += 1;
        self.removed
    }
}

impl<P: Clone + PartialEq, L: Clone + PartialEq> Default for Mprog<P, L> {
    fn default() -> Self {
        Mprog::new()
    }
}

impl<P: Clone + PartialEq, L: Clone + PartialEq> Mprog<P, L> {
    /// A hook with nothing attached, at revision 1.
    pub fn new() -> Self {
        Mprog {
            arrays: [Vec::with_capacity(MPROG_MAX), Vec::with_capacity(MPROG_MAX)],
            active: 0,
            revision: 1,
        }
    }

    /// What is attached, in the order it runs.
    pub fn entries(&self) -> &[Entry<P, L>] {
        &self.arrays[self.active]
    }

    /// Forgets everything: a new hook, in the memory of this one.
    pub fn reset(&mut self) {
        self.arrays.iter_mut().for_each(Vec::clear);
        self.revision = 1;
    }

    /// Number of edits so far plus 1.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Attaches `new`, or puts it in place of what the anchor replaces. The same program may be attached once.
    ///
    /// # Errors
    /// ESTALE: `expected_revision` is not the current one. EEXIST: the program is attached already. ENOENT: the anchor names what is not
    /// attached. ERANGE: rules disagree, or 64 are attached. EBUSY: what it replaces is a link's. EINVAL: a relative without BEFORE or AFTER.
    pub fn attach(
        &mut self,
        new: Entry<P, L>,
        anchor: &Anchor<P, L>,
        expected_revision: Option<u64>,
    ) -> Result<Pending<'_, P, L>, Errno> {
        self.check_revision(expected_revision)?;
        if self.entries().iter().any(|entry| entry.prog == new.prog) {
            return Err(Errno::EEXIST);
        }
        let relative = anchor.relative.entry()?;
        let exact = match anchor.replace.entry()? {
            Some(replaced) => Some(self.position_of(replaced)?),
            None if self.entries().len() == MPROG_MAX => return Err(Errno::ERANGE),
            None => None,
        };
        let gap = self.agreed_gap(exact, anchor, relative)?;
        let count = self.entries().len();
        self.copy_to_spare();
        let spare = &mut self.arrays[1 - self.active];
        let removed = match (exact, gap) {
            (Some(at), _) => Some(core::mem::replace(&mut spare[at], new)),
            (None, Some(gap)) => {
                let at = if anchor.before && !anchor.after {
                    gap + 1
                } else {
                    gap
                };
                spare.insert((at.max(0) as usize).min(count), new);
                None
            }
            (None, None) if anchor.has_rule() => return Err(Errno::EINVAL),
            (None, None) => {
                spare.push(new);
                None
            }
        };
        Ok(Pending {
            hook: self,
            removed,
        })
    }

    /// Detaches `wanted`, or without it the entry that the anchor's place names: the last by default and with AFTER, the first with BEFORE.
    /// Never allocates.
    ///
    /// # Errors
    /// EINVAL: REPLACE, or a relative without BEFORE or AFTER. ESTALE: as for attach. ENOENT: nothing is attached, or not `wanted`. ERANGE:
    /// rules disagree. EBUSY: the place or the program is a link's, which only its
    /// owner detaches.
    pub fn detach(
        &mut self,
        wanted: Option<&Entry<P, L>>,
        anchor: &Anchor<P, L>,
        expected_revision: Option<u64>,
    ) -> Result<Pending<'_, P, L>, Errno> {
        let count = self.entries().len();
        if count == 0 {
            return Err(Errno::ENOENT);
        }
        if anchor.replace != Named::Nothing {
            return Err(Errno::EINVAL);
        }
        self.check_revision(expected_revision)?;
        let relative = anchor.relative.entry()?;
        let exact = wanted.map(|wanted| self.position_of(wanted)).transpose()?;
        let at = match self.agreed_gap(exact, anchor, relative)? {
            Some(gap) => (gap.max(0) as usize).min(count - 1),
            None if anchor.has_rule() => return Err(Errno::EINVAL),
            None => count - 1,
        };
        if self.entries()[at].link.is_some() && wanted.is_none_or(|wanted| wanted.link.is_none()) {
            return Err(Errno::EBUSY);
        }
        self.copy_to_spare();
        let removed = self.arrays[1 - self.active].remove(at);
        Ok(Pending {
            hook: self,
            removed: Some(removed),
        })
    }

    /// Gives the link of an entry another program, in its place.
    ///
    /// # Errors
    /// EEXIST: the program is attached already. ENOENT: the link is not attached with `from`.
    pub fn update_link(&mut self, link: L, from: P, to: P) -> Result<Pending<'_, P, L>, Errno> {
        let place = Anchor::replacing(Entry::link(from, link.clone()));
        self.attach(Entry::link(to, link), &place, None)
    }

    fn check_revision(&self, expected: Option<u64>) -> Result<(), Errno> {
        match expected {
            Some(expected) if expected != self.revision => Err(Errno::ESTALE),
            _ => Ok(()),
        }
    }

    /// Index of exactly this entry: same program, same link or none. EBUSY where the program is held in another way.
    fn position_of(&self, wanted: &Entry<P, L>) -> Result<usize, Errno> {
        let found = |entry: &Entry<P, L>| entry.prog == wanted.prog;
        let at = self.entries().iter().position(found).ok_or(Errno::ENOENT)?;
        if self.entries()[at].link == wanted.link {
            Ok(at)
        } else {
            Err(Errno::EBUSY)
        }
    }

    /// The number all rules agree on; `None` if there is no rule.
    fn agreed_gap(
        &self,
        exact: Option<usize>,
        anchor: &Anchor<P, L>,
        relative: Option<&Entry<P, L>>,
    ) -> Result<Option<isize>, Errno> {
        let mut agreed = exact.map(|at| at as isize);
        if anchor.before {
            agreed = Some(agree(agreed, self.gap_before(relative)?)?);
        }
        if anchor.after {
            agreed = Some(agree(agreed, self.gap_after(relative)?)?);
        }
        Ok(agreed)
    }

    fn gap_before(&self, relative: Option<&Entry<P, L>>) -> Result<isize, Errno> {
        match relative {
            None => Ok(-1),
            Some(relative) => self.position_named(relative).map(|at| at - 1),
        }
    }

    fn gap_after(&self, relative: Option<&Entry<P, L>>) -> Result<isize, Errno> {
        match relative {
            None => Ok(self.entries().len() as isize),
            Some(relative) => self.position_named(relative).map(|at| at + 1),
        }
    }

    fn position_named(&self, relative: &Entry<P, L>) -> Result<isize, Errno> {
        let at = self
            .entries()
            .iter()
            .position(|entry| entry.is_named_by(relative));
        at.map(|at| at as isize).ok_or(Errno::ENOENT)
    }

    fn copy_to_spare(&mut self) {
        let [first, second] = &mut self.arrays;
        let (active, spare) = if self.active == 0 {
            (first, second)
        } else {
            (second, first)
        };
        spare.clear();
        spare.extend(active.iter().cloned());
    }
}

/// A further rule must give the number that the rules before it gave.
fn agree(agreed: Option<isize>, gap: isize) -> Result<isize, Errno> {
    match agreed {
        Some(agreed) if agreed != gap => Err(Errno::ERANGE),
        _ => Ok(gap),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Hook = Mprog<u32, u32>;

    fn hook(progs: &[u32]) -> Hook {
        let mut hook = Hook::new();
        for &prog in progs {
            hook.attach(Entry::program(prog), &Anchor::none(), None)
                .unwrap()
                .commit();
        }
        hook
    }

    fn order(hook: &Hook) -> Vec<u32> {
        hook.entries().iter().map(|entry| entry.prog).collect()
    }

    #[test]
    fn anchors_place_and_replace() {
        let mut hook = hook(&[1, 2]);
        hook.attach(Entry::program(3), &Anchor::first(), None)
            .unwrap()
            .commit();
        hook.attach(Entry::program(4), &Anchor::after(Entry::program(1)), None)
            .unwrap()
            .commit();
        hook.attach(Entry::program(5), &Anchor::before(Entry::program(2)), None)
            .unwrap()
            .commit();
        assert_eq!(order(&hook), [3, 1, 4, 5, 2]);
        let replaced = hook
            .attach(
                Entry::program(6),
                &Anchor::replacing(Entry::program(4)),
                None,
            )
            .unwrap()
            .commit();
        assert_eq!(replaced, Some(Entry::program(4)));
        assert_eq!(order(&hook), [3, 1, 6, 5, 2]);
        assert_eq!(hook.revision(), 7);
    }

    #[test]
    fn an_edit_that_is_not_committed_changes_nothing() {
        let mut hook = hook(&[1, 2]);
        let _ = hook
            .attach(Entry::program(3), &Anchor::first(), None)
            .unwrap();
        let _ = hook.detach(None, &Anchor::none(), None).unwrap();
        assert_eq!(order(&hook), [1, 2]);
        assert_eq!(hook.revision(), 3);
    }

    #[test]
    fn errors_are_the_kernels() {
        let mut hook = hook(&[1, 2]);
        let attach = |hook: &mut Hook, prog, anchor: &Anchor<u32, u32>, revision| {
            hook.attach(Entry::program(prog), anchor, revision)
                .map(|pending| {
                    pending.commit();
                })
        };
        assert_eq!(
            attach(&mut hook, 3, &Anchor::none(), Some(1)),
            Err(Errno::ESTALE)
        );
        assert_eq!(
            attach(&mut hook, 1, &Anchor::none(), None),
            Err(Errno::EEXIST)
        );
        assert_eq!(
            attach(&mut hook, 3, &Anchor::before(Entry::program(9)), None),
            Err(Errno::ENOENT)
        );
        assert_eq!(
            attach(&mut hook, 3, &Anchor::replacing(Entry::program(9)), None),
            Err(Errno::ENOENT)
        );
        let both = Anchor {
            after: true,
            ..Anchor::before(Entry::program(1))
        };
        assert_eq!(attach(&mut hook, 3, &both, None), Err(Errno::ERANGE));
        let no_side = Anchor {
            before: false,
            ..Anchor::before(Entry::program(1))
        };
        assert_eq!(attach(&mut hook, 3, &no_side, None), Err(Errno::EINVAL));
        assert_eq!(order(&hook), [1, 2]);
    }

    #[test]
    fn detach_by_position_spares_links() {
        let mut hook = hook(&[1, 2]);
        hook.attach(Entry::link(3, 30), &Anchor::last(), None)
            .unwrap()
            .commit();
        assert_eq!(
            hook.detach(None, &Anchor::none(), None).err(),
            Some(Errno::EBUSY)
        );
        assert_eq!(
            hook.detach(None, &Anchor::first(), None).unwrap().commit(),
            Some(Entry::program(1))
        );
        assert_eq!(
            hook.detach(Some(&Entry::program(3)), &Anchor::none(), None)
                .err(),
            Some(Errno::EBUSY)
        );
        assert_eq!(
            hook.detach(Some(&Entry::link(3, 30)), &Anchor::none(), None)
                .unwrap()
                .commit(),
            Some(Entry::link(3, 30))
        );
        assert_eq!(
            hook.detach(None, &Anchor::last(), None).unwrap().commit(),
            Some(Entry::program(2))
        );
        assert_eq!(
            hook.detach(None, &Anchor::none(), None).err(),
            Some(Errno::ENOENT)
        );
    }

    #[test]
    fn what_was_removed_is_kept_nowhere() {
        let prog = alloc::sync::Arc::new(1);
        let mut hook = Mprog::<alloc::sync::Arc<i32>, u32>::new();
        hook.attach(Entry::program(prog.clone()), &Anchor::none(), None)
            .unwrap()
            .commit();
        drop(hook.detach(None, &Anchor::none(), None).unwrap().commit());
        assert_eq!(alloc::sync::Arc::strong_count(&prog), 1);
        hook.reset();
        assert_eq!((hook.revision(), hook.entries().len()), (1, 0));
    }

    #[test]
    fn sixty_four_fit() {
        let progs: Vec<u32> = (0..64).collect();
        let mut hook = hook(&progs);
        assert_eq!(
            hook.attach(Entry::program(64), &Anchor::none(), None).err(),
            Some(Errno::ERANGE)
        );
        assert!(
            hook.attach(
                Entry::program(64),
                &Anchor::replacing(Entry::program(5)),
                None
            )
            .is_ok()
        );
    }
}
