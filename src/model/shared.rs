//! What many hold and few change: copied when one of several changes it.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A value that is shared by all who cloned it, until one of them changes it: for that one it is copied then. Two that are
/// shared still are found to be equal without a look at them.
#[derive(Default, Debug)]
pub struct Shared<T>(Arc<T>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.is(other) || self.0 == other.0
    }
}

impl<T: Eq> Eq for Shared<T> {}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

impl<T> Shared<T> {
    /// Held by one so far.
    pub fn new(value: T) -> Self {
        Self(Arc::new(value))
    }

    /// Whether it is the same one still.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T: FromIterator<I>, I> FromIterator<I> for Shared<T> {
    fn from_iter<C: IntoIterator<Item = I>>(items: C) -> Self {
        Self::new(T::from_iter(items))
    }
}

impl<T: FromIterator<I>, I, const N: usize> From<[I; N]> for Shared<T> {
    fn from(items: [I; N]) -> Self {
        items.into_iter().collect()
    }
}
