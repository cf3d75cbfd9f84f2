//! `Shared`: a part of a state that copies of the state share until one of them changes it.

use alloc::rc::Rc;
use core::ops::{Deref, DerefMut};

/// Read like a `T`; a change copies it if another state refers to it.
#[derive(Debug, Default)]
pub(crate) struct Shared<T>(Rc<T>);

impl<T> Clone for Shared<T> {
    #[inline]
    fn clone(&self) -> Self {
        Shared(Rc::clone(&self.0))
    }
}

impl<T> Shared<T> {
    pub(crate) fn new(value: T) -> Self {
        Shared(Rc::new(value))
    }

    /// Replaces the whole, without a look at what other states refer to.
    #[inline]
    pub(crate) fn set(&mut self, value: T) {
        match Rc::get_mut(&mut self.0) {
            Some(place) => *place = value,
            None => self.0 = Rc::new(value),
        }
    }

    /// Whether both are one that nobody has changed since.
    #[inline]
    pub(crate) fn is_same(&self, other: &Shared<T>) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        Rc::make_mut(&mut self.0)
    }
}
