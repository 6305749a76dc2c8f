//! Memory that is used again.

/// The first `len` elements, made where there are fewer.
pub(super) fn room_for<T: Clone + Default>(room: &mut Vec<T>, len: usize) -> &mut [T] {
    if room.len() < len {
        room.resize(len, T::default());
    }
    &mut room[..len]
}
