// A chat page: `useChat` of React. It sends a message, is loaded again in the middle of the answer,
// resumes it, and tells the test what it shows at the end.
import { createElement, useEffect } from 'react';
import { createRoot } from 'react-dom/client';
import { useChat } from 'ai-react';
import { DefaultChatTransport } from 'ai-transport';

const query = new URLSearchParams(location.search);
const api = query.get('api');
const id = query.get('session');
const wasLoadedBefore = sessionStorage.getItem(id) !== null;

function Chat({ messages, after }) {
  const chat = useChat({
    id,
    messages,
    resume: wasLoadedBefore,
    transport: new DefaultChatTransport({
      api,
      body: { options: { delay_ms: 15 } },
      prepareReconnectToStreamRequest: ({ id }) => ({
        api: `${api}/${id}/stream${after ? `?after=${after}` : ''}`,
      }),
    }),
  });
  const last = chat.messages.at(-1);
  const says = last?.role === 'assistant' && last.parts.some(part => part.type === 'text' && part.text);
  const resumed = wasLoadedBefore && chat.status === 'ready' && says;
  useEffect(() => {
    if (!wasLoadedBefore) chat.sendMessage({ text: 'Hello!' });
  }, []);
  useEffect(() => {
    if (says && !wasLoadedBefore) {
      sessionStorage.setItem(id, 'yes');
      location.reload();
    }
  }, [says]);
  useEffect(() => {
    if (resumed) tell({ messages: chat.messages, error: chat.error?.message ?? null });
  }, [resumed]);
  return createElement('ol', null, chat.messages.map((message, at) =>
    createElement('li', { key: at }, message.parts.map(part => part.text ?? '').join(''))));
}

const tell = what => setTimeout(() => fetch('/told', {
  method: 'POST',
  body: JSON.stringify({ session: id, shown: document.body.innerText, ...what }),
}), 100);

addEventListener('error', event => tell({ error: String(event.message) }));
const response = await fetch(`${api}/${id}/messages`);
const messages = response.status === 404 ? [] : await response.json();
createRoot(document.getElementById('root')).render(
  createElement(Chat, { messages, after: response.headers.get('Stream-After') }));
