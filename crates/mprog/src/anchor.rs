//! `Anchor`: where an attach or detach request wants to be, as values instead of flag bits. [`Lookup`] is what flag bits need to become one.

use ring3_uapi::{Errno, flags::mprog as bits};

use crate::Entry;

/// Bits that a request may have.
const KNOWN: u32 = bits::REPLACE | bits::BEFORE | bits::AFTER | bits::ID | bits::LINK;

/// Something a request names: looked up when the request was read, judged when its turn comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Named<P, L> {
    /// The request names nothing.
    Nothing,
    /// This one.
    Entry(Entry<P, L>),
    /// Something that the lookup refused.
    Refused(Errno),
}

impl<P, L> Named<P, L> {
    /// The entry named, if any.
    pub(crate) fn entry(&self) -> Result<Option<&Entry<P, L>>, Errno> {
        match self {
            Named::Nothing => Ok(None),
            Named::Entry(entry) => Ok(Some(entry)),
            Named::Refused(errno) => Err(*errno),
        }
    }
}

/// What the numbers of a request mean: descriptors of the caller, ids of the system. The type of a program is checked against the request's
/// program; a detach without a program takes any type.
pub trait Lookup<P, L> {
    /// The program behind a descriptor.
    ///
    /// # Errors
    /// EBADF: not open. EINVAL: no program, or one of a type that the hook does not take.
    fn prog_by_fd(&self, fd: u32) -> Result<P, Errno>;

    /// The program with an id.
    ///
    /// # Errors
    /// ENOENT: there is none. EINVAL: a type that the hook does not take.
    fn prog_by_id(&self, id: u32) -> Result<P, Errno>;

    /// The link behind a descriptor, with its program.
    ///
    /// # Errors
    /// As [`Lookup::prog_by_fd`].
    fn link_by_fd(&self, fd: u32) -> Result<Entry<P, L>, Errno>;

    /// The link with an id, with its program.
    ///
    /// # Errors
    /// As [`Lookup::prog_by_id`].
    fn link_by_id(&self, id: u32) -> Result<Entry<P, L>, Errno>;
}

/// The placement rules of a request. Rules are evaluated alone; those given must agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor<P, L> {
    /// Directly before `relative`, or first without one.
    pub(crate) before: bool,
    /// Directly after `relative`, or last without one.
    pub(crate) after: bool,
    /// What `before` and `after` refer to; a link is matched only where one is named.
    pub(crate) relative: Named<P, L>,
    /// In place of this one (attach only).
    pub(crate) replace: Named<P, L>,
    /// A bit that says nothing: without a place, it is none.
    pub(crate) has_unknown_bit: bool,
}

impl<P, L> Anchor<P, L> {
    /// No rule: an attach goes to the end, a detach names its program or takes the last.
    pub const fn none() -> Self {
        Anchor {
            before: false,
            after: false,
            relative: Named::Nothing,
            replace: Named::Nothing,
            has_unknown_bit: false,
        }
    }

    /// First of all.
    pub fn first() -> Self {
        Anchor {
            before: true,
            ..Anchor::none()
        }
    }

    /// Last of all.
    pub fn last() -> Self {
        Anchor {
            after: true,
            ..Anchor::none()
        }
    }

    /// Directly before an entry.
    pub fn before(relative: Entry<P, L>) -> Self {
        Anchor {
            before: true,
            relative: Named::Entry(relative),
            ..Anchor::none()
        }
    }

    /// Directly after an entry.
    pub fn after(relative: Entry<P, L>) -> Self {
        Anchor {
            after: true,
            relative: Named::Entry(relative),
            ..Anchor::none()
        }
    }

    /// In place of an entry.
    pub fn replacing(replace: Entry<P, L>) -> Self {
        Anchor {
            replace: Named::Entry(replace),
            ..Anchor::none()
        }
    }

    /// The rules of a request to attach or detach a program: its flag bits, `relative_fd` and the program behind `replace_bpf_fd`.
    ///
    /// # Errors
    /// EINVAL: an unknown bit, or REPLACE without something to replace. What `lookup` refuses is an error only where the rule is reached.
    pub fn from_request(
        flags: u32,
        id_or_fd: u32,
        replace: Option<Entry<P, L>>,
        lookup: &impl Lookup<P, L>,
    ) -> Result<Self, Errno> {
        if flags & !KNOWN != 0 {
            return Err(Errno::EINVAL);
        }
        let replace = match (flags & bits::REPLACE != 0, replace) {
            (false, _) => Named::Nothing,
            (true, Some(replace)) => Named::Entry(replace),
            (true, None) => return Err(Errno::EINVAL),
        };
        Ok(Anchor {
            replace,
            ..Anchor::placed(flags, id_or_fd, lookup)
        })
    }

    /// The rules of a request to create a link. Links replace nothing when they are made, so REPLACE finds nothing; unknown bits count
    /// only where no place is given, as for the reference kernel.
    pub fn from_link_request(flags: u32, id_or_fd: u32, lookup: &impl Lookup<P, L>) -> Self {
        let replace = match flags & bits::REPLACE {
            0 => Named::Nothing,
            _ => Named::Refused(Errno::ENOENT),
        };
        Anchor {
            replace,
            ..Anchor::placed(flags, id_or_fd, lookup)
        }
    }

    fn placed(flags: u32, id_or_fd: u32, lookup: &impl Lookup<P, L>) -> Self {
        let found = match (flags & bits::LINK != 0, flags & bits::ID != 0) {
            (false, false) if id_or_fd == 0 => None,
            (false, false) => Some(lookup.prog_by_fd(id_or_fd).map(Entry::program)),
            (false, true) => Some(lookup.prog_by_id(id_or_fd).map(Entry::program)),
            (true, false) => Some(lookup.link_by_fd(id_or_fd)),
            (true, true) => Some(lookup.link_by_id(id_or_fd)),
        };
        Anchor {
            before: flags & bits::BEFORE != 0,
            after: flags & bits::AFTER != 0,
            relative: match found {
                None => Named::Nothing,
                Some(Ok(entry)) => Named::Entry(entry),
                Some(Err(errno)) => Named::Refused(errno),
            },
            replace: Named::Nothing,
            has_unknown_bit: flags & !KNOWN != 0,
        }
    }

    /// Whether the request says anything about its place.
    pub(crate) const fn has_rule(&self) -> bool {
        self.before
            || self.after
            || self.has_unknown_bit
            || !matches!(self.relative, Named::Nothing)
    }
}
