//! `Anchor`: where an attach or detach request wants to be, as values instead of flag bits.

use ring3_uapi::{Errno, flags::mprog as bits};

use crate::Entry;

/// The placement rules of a request. Rules are evaluated alone; those given must agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor<P, L> {
    /// Directly before `relative`, or first without one.
    pub(crate) before: bool,
    /// Directly after `relative`, or last without one.
    pub(crate) after: bool,
    /// What `before` and `after` refer to; a link is matched only where one is named.
    pub(crate) relative: Option<Entry<P, L>>,
    /// In place of this one (attach only).
    pub(crate) replace: Option<Entry<P, L>>,
}

impl<P, L> Anchor<P, L> {
    /// No rule: an attach goes to the end, a detach names its program or takes the last.
    pub const fn none() -> Self {
        Anchor {
            before: false,
            after: false,
            relative: None,
            replace: None,
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
            relative: Some(relative),
            ..Anchor::none()
        }
    }

    /// Directly after an entry.
    pub fn after(relative: Entry<P, L>) -> Self {
        Anchor {
            after: true,
            relative: Some(relative),
            ..Anchor::none()
        }
    }

    /// In place of an entry.
    pub fn replacing(replace: Entry<P, L>) -> Self {
        Anchor {
            replace: Some(replace),
            ..Anchor::none()
        }
    }

    /// The rules that the flag bits of a request say, with what it resolved for them. `REPLACE` takes `replace`; `ID` and `LINK` only say how
    /// `relative` was looked up.
    ///
    /// # Errors
    /// EINVAL: an unknown bit, or REPLACE without something to replace.
    pub fn from_flags(
        flags: u32,
        relative: Option<Entry<P, L>>,
        replace: Option<Entry<P, L>>,
    ) -> Result<Self, Errno> {
        const KNOWN: u32 = bits::REPLACE | bits::BEFORE | bits::AFTER | bits::ID | bits::LINK;
        if flags & !KNOWN != 0 {
            return Err(Errno::EINVAL);
        }
        let wants_replace = flags & bits::REPLACE != 0;
        if wants_replace && replace.is_none() {
            return Err(Errno::EINVAL);
        }
        Ok(Anchor {
            before: flags & bits::BEFORE != 0,
            after: flags & bits::AFTER != 0,
            relative,
            replace: replace.filter(|_| wants_replace),
        })
    }

    /// Whether the request says anything about its place.
    pub(crate) const fn has_rule(&self) -> bool {
        self.before || self.after || self.relative.is_some()
    }
}
