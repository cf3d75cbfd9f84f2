//! Queries: what is attached, as BPF_PROG_QUERY tells it.

use alloc::vec::Vec;

use ring3_uapi::Errno;

use crate::{Entry, Mprog};

/// What a query asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// `query_flags`; must be 0.
    pub query_flags: u32,
    /// `attach_flags`; must be 0.
    pub attach_flags: u32,
    /// Entries the caller has room for; `None` and 0 ask for the count only.
    pub room: Option<u32>,
}

/// What a query gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryResult<P, L> {
    /// Revision of the hook.
    pub revision: u64,
    /// Entries attached, however many were given.
    pub count: u32,
    /// As many entries as fit, from the first.
    pub entries: Vec<Entry<P, L>>,
    /// ENOSPC where not all fit; the rest of the result is valid all the same.
    pub error: Option<Errno>,
}

impl<P: Clone + PartialEq, L: Clone + PartialEq> Mprog<P, L> {
    /// Revision, count and entries.
    ///
    /// # Errors
    /// EINVAL: flags.
    pub fn query(&self, query: &Query) -> Result<QueryResult<P, L>, Errno> {
        if query.query_flags != 0 || query.attach_flags != 0 {
            return Err(Errno::EINVAL);
        }
        let count = self.entries().len();
        let room = query.room.unwrap_or(0) as usize;
        let given = count.min(room);
        let is_short = room != 0 && room < count;
        Ok(QueryResult {
            revision: self.revision(),
            count: count as u32,
            entries: self.entries()[..given].to_vec(),
            error: is_short.then_some(Errno::ENOSPC),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Anchor;

    #[test]
    fn a_short_query_gives_the_prefix_and_the_true_count() {
        let mut hook = Mprog::<u32, u32>::new();
        for prog in [7, 8, 9] {
            hook.attach(Entry::program(prog), &Anchor::last(), None)
                .unwrap()
                .commit();
        }
        let result = hook
            .query(&Query {
                room: Some(2),
                ..Query::default()
            })
            .unwrap();
        assert_eq!(
            (result.count, result.revision, result.error),
            (3, 4, Some(Errno::ENOSPC))
        );
        assert_eq!(result.entries, [Entry::program(7), Entry::program(8)]);
        assert_eq!(hook.query(&Query::default()).unwrap().error, None);
        assert_eq!(
            hook.query(&Query {
                query_flags: 1,
                ..Query::default()
            }),
            Err(Errno::EINVAL)
        );
    }
}
