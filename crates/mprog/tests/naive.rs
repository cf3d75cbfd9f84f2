//! Every request from every reachable state with three programs, each by itself or through a link, beside a model that knows neighbours
//! instead of numbers.

use ring3_mprog::{Anchor, Entry, Lookup, Mprog};
use ring3_uapi::{Errno, flags::mprog as bits};

type Item = Entry<u8, u8>;

/// Programs 0 to 2; the link of program P is P.
const PROGS: u8 = 3;

struct Numbers;

/// Program P is 1 + P, its link 11 + P; both exist always, attached or not.
impl Lookup<u8, u8> for Numbers {
    fn prog_by_fd(&self, fd: u32) -> Result<u8, Errno> {
        Ok(fd as u8 - 1)
    }
    fn prog_by_id(&self, id: u32) -> Result<u8, Errno> {
        self.prog_by_fd(id)
    }
    fn link_by_fd(&self, fd: u32) -> Result<Item, Errno> {
        Ok(Entry::link(fd as u8 - 11, fd as u8 - 11))
    }
    fn link_by_id(&self, id: u32) -> Result<Item, Errno> {
        self.link_by_fd(id)
    }
}

/// What a request says of its place.
#[derive(Clone, Copy, Debug)]
struct Place {
    before: bool,
    after: bool,
    relative: Option<(u8, bool)>,
    by_id: bool,
    replace: Option<u8>,
    revision: Option<u64>,
}

fn states() -> Vec<Vec<Item>> {
    let mut states = vec![Vec::new()];
    let mut at = 0;
    while at < states.len() {
        for prog in 0..PROGS {
            if states[at].iter().all(|entry: &Item| entry.prog != prog) {
                for entry in [Entry::program(prog), Entry::link(prog, prog)] {
                    states.push([states[at].clone(), vec![entry]].concat());
                }
            }
        }
        at += 1;
    }
    states
}

fn places(revision: u64) -> Vec<Place> {
    let mut places = Vec::new();
    let mut relatives = vec![None];
    relatives.extend((0..PROGS).flat_map(|prog| [Some((prog, false)), Some((prog, true))]));
    for sides in 0..4 {
        for &relative in &relatives {
            for by_id in [false, true] {
                if by_id && relative.is_none() {
                    continue;
                }
                for replace in [None, Some(0), Some(1), Some(2)] {
                    for revision in [None, Some(revision), Some(revision + 1)] {
                        places.push(Place {
                            before: sides & 1 != 0,
                            after: sides & 2 != 0,
                            relative,
                            by_id,
                            replace,
                            revision,
                        });
                    }
                }
            }
        }
    }
    places
}

fn anchor(place: &Place) -> Anchor<u8, u8> {
    let mut flags = 0;
    for (is_set, bit) in [
        (place.before, bits::BEFORE),
        (place.after, bits::AFTER),
        (place.by_id, bits::ID),
        (place.relative.is_some_and(|(_, link)| link), bits::LINK),
        (place.replace.is_some(), bits::REPLACE),
    ] {
        flags |= if is_set { bit } else { 0 };
    }
    let number = match place.relative {
        None => 0,
        Some((prog, false)) => 1 + u32::from(prog),
        Some((prog, true)) => 11 + u32::from(prog),
    };
    let replace = place.replace.map(Entry::program);
    Anchor::from_request(flags, number, replace, &Numbers).expect("only known bits are set")
}

/// The entry that the relative names: a program's name finds its link too, a link's name only the link.
fn neighbour(state: &[Item], (prog, by_link): (u8, bool)) -> Result<usize, Errno> {
    let found = state
        .iter()
        .position(|entry| entry.prog == prog && (!by_link || entry.link.is_some()));
    found.ok_or(Errno::ENOENT)
}

/// Where this entry is; a program that is held in another way is busy.
fn held_as(state: &[Item], wanted: &Item) -> Result<usize, Errno> {
    for (at, entry) in state.iter().enumerate() {
        if entry == wanted {
            return Ok(at);
        }
        if entry.prog == wanted.prog {
            return Err(Errno::EBUSY);
        }
    }
    Err(Errno::ENOENT)
}

/// The checks that come before places: in the order of their errnos.
fn naive_attach(
    state: &[Item],
    revision: u64,
    new: &Item,
    place: &Place,
) -> Result<Vec<Item>, Errno> {
    if place.revision.is_some_and(|expected| expected != revision) {
        return Err(Errno::ESTALE);
    }
    if state.iter().any(|entry| entry.prog == new.prog) {
        return Err(Errno::EEXIST);
    }
    let mut result = state.to_vec();
    if let Some(replaced) = place.replace {
        let at = held_as(state, &Entry::program(replaced))?;
        agrees(state, at, place)?;
        result[at] = new.clone();
        return Ok(result);
    }
    let at = match (place.before, place.after, place.relative) {
        (false, false, None) => state.len(),
        (false, false, Some(_)) => return Err(Errno::EINVAL),
        (true, true, Some(relative)) => {
            neighbour(state, relative)?;
            return Err(Errno::ERANGE);
        }
        (true, true, None) => return Err(Errno::ERANGE),
        (true, false, None) => 0,
        (false, true, None) => state.len(),
        (true, false, Some(relative)) => neighbour(state, relative)?,
        (false, true, Some(relative)) => neighbour(state, relative)? + 1,
    };
    result.insert(at, new.clone());
    Ok(result)
}

/// Whether the entry at `at` stands where the place says: directly before or after its neighbour. No entry stands before all or after all.
fn agrees(state: &[Item], at: usize, place: &Place) -> Result<(), Errno> {
    if place.before {
        match place.relative {
            Some(relative) if neighbour(state, relative)? == at + 1 => {}
            _ => return Err(Errno::ERANGE),
        }
    }
    if place.after {
        match place.relative {
            Some(relative) if neighbour(state, relative)? + 1 == at => {}
            _ => return Err(Errno::ERANGE),
        }
    }
    Ok(())
}

fn naive_detach(
    state: &[Item],
    revision: u64,
    wanted: Option<&Item>,
    place: &Place,
) -> Result<Vec<Item>, Errno> {
    if state.is_empty() {
        return Err(Errno::ENOENT);
    }
    if place.replace.is_some() {
        return Err(Errno::EINVAL);
    }
    if place.revision.is_some_and(|expected| expected != revision) {
        return Err(Errno::ESTALE);
    }
    let at = match wanted {
        Some(wanted) => {
            let at = held_as(state, wanted)?;
            agrees(state, at, place)?;
            at
        }
        None => match (place.before, place.after, place.relative) {
            (false, false, None) | (false, true, None) => state.len() - 1,
            (false, false, Some(_)) => return Err(Errno::EINVAL),
            (true, false, None) => 0,
            (true, true, None) => return Err(Errno::ERANGE),
            (true, true, Some(relative)) => {
                neighbour(state, relative)?;
                return Err(Errno::ERANGE);
            }
            // What would lie before the first is the first, after the last the last.
            (true, false, Some(relative)) => neighbour(state, relative)?.saturating_sub(1),
            (false, true, Some(relative)) => (neighbour(state, relative)? + 1).min(state.len() - 1),
        },
    };
    if state[at].link.is_some() && wanted.is_none_or(|wanted| wanted.link.is_none()) {
        return Err(Errno::EBUSY);
    }
    let mut result = state.to_vec();
    result.remove(at);
    Ok(result)
}

fn hook_in(state: &[Item]) -> Mprog<u8, u8> {
    let mut hook = Mprog::new();
    for entry in state {
        hook.attach(entry.clone(), &Anchor::none(), None)
            .expect("three fit")
            .commit();
    }
    hook
}

#[test]
fn every_request_from_every_state_agrees_with_the_naive_model() {
    let mut items: Vec<Option<Item>> = vec![None];
    items.extend(
        (0..PROGS).flat_map(|prog| [Some(Entry::program(prog)), Some(Entry::link(prog, prog))]),
    );
    let (mut requests, mut done) = (0u32, 0u32);
    for state in states() {
        let hook = hook_in(&state);
        for place in places(hook.revision()) {
            let anchor = anchor(&place);
            for item in &items {
                let mut compare =
                    |ours: Result<(Vec<Item>, u64), Errno>, naive: Result<Vec<Item>, Errno>| {
                        requests += 1;
                        done += u32::from(ours.is_ok());
                        let naive = naive.map(|entries| (entries, hook.revision() + 1));
                        assert_eq!(ours, naive, "{state:?} {item:?} {place:?}");
                    };
                let mut edited = hook.clone();
                let ours = edited
                    .detach(item.as_ref(), &anchor, place.revision)
                    .map(|edit| {
                        edit.commit();
                    });
                check_untouched(&hook, &edited, ours.is_err());
                compare(
                    ours.map(|()| (edited.entries().to_vec(), edited.revision())),
                    naive_detach(&state, hook.revision(), item.as_ref(), &place),
                );
                if let Some(item) = item {
                    let mut edited = hook.clone();
                    let ours = edited
                        .attach(item.clone(), &anchor, place.revision)
                        .map(|edit| {
                            edit.commit();
                        });
                    check_untouched(&hook, &edited, ours.is_err());
                    compare(
                        ours.map(|()| (edited.entries().to_vec(), edited.revision())),
                        naive_attach(&state, hook.revision(), item, &place),
                    );
                }
            }
        }
    }
    assert_eq!(states().len(), 79);
    assert!(
        requests > 600_000 && done > 10_000,
        "{requests} requests, {done} done"
    );
}

fn check_untouched(before: &Mprog<u8, u8>, after: &Mprog<u8, u8>, failed: bool) {
    if failed {
        assert_eq!(before.entries(), after.entries());
        assert_eq!(before.revision(), after.revision());
    }
}
