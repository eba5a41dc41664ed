"""Chaos on real parts: processes, brokers and stores that are killed, frozen, rewound and cut off."""
